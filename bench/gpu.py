"""The same merges on the CPU and on CUDA: 4 random adapters of rank 16 at the shapes of Llama 3.1 8B, 224 modules.

`python -m bench.gpu`, on a machine with a GPU. Whole merges through the studio: factors from memory, with the report,
and the result back in memory. The dense methods merge one layer of 7 modules. Seconds are by the clock, the best of two
runs after one on a layer to warm up; `difference` is the relative distance of the two results on that layer. Writes
bench/results/gpu.json, or $OUT/gpu.json where OUT is set. `--page` measures nothing and writes what is in that file
into docs/reference/methods.md.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from bench.synthetic import EMBEDDED, LLAMA_8B, Clock, adapter, machine
from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter, in_memory_module
from studio.core.files import write_atomic
from studio.recipes.sources import BATCH, Sources
from tools.marks import between

RESULTS = Path(os.environ.get("OUT", Path(__file__).parent / "results")) / "gpu.json"
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "methods.md"
MARK = "gpu figures"
SOURCES, RANK = 4, 16
BATCHES = {"cpu": BATCH, "cuda": 8 << 30}
SHAPES = {"llama-8b": LLAMA_8B, "embedded": EMBEDDED}
WHOLE = {"cat": {}, "svd": {}, "lego": {"k": 16}, "knots": {}, "core": {}, "tsv": {}, "iso": {}}
Figures = dict[str, Any]
LAYER = {"ties": {"rank": 64}, "dare": {"rank": 64}, "della": {"rank": 64}, "breadcrumbs": {"rank": 64}}


def in_memory(drawn: Adapter) -> Adapter:
    """The adapter with its factors read once and kept."""
    modules = {name: in_memory_module(name, *module.load()) for name, module in drawn.modules.items()}
    return Adapter(drawn.name, modules, drawn.dialect)


def merged(adapters: Sequence[Adapter], id: str, knobs: dict[str, Any], device: str) -> Adapter:
    """One merge on one device."""
    sources = Sources(tuple(adapters), batch=BATCHES[device], device=device)
    return compose(recipe_for(adapters, id, None, knobs), sources).adapter


def seconds(adapters: Sequence[Adapter], id: str, knobs: dict[str, Any], device: str, runs: int) -> float:
    """The best of some runs."""
    taken = []
    for _ in range(runs):
        started = perf_counter()
        merged(adapters, id, knobs, device)
        taken.append(perf_counter() - started)
    return min(taken)


def difference(one: Adapter, other: Adapter) -> float:
    """Relative distance over all modules, by inner products of the pairs."""
    error = total = 0.0
    for name, module in one.modules.items():
        mine, theirs = (np.float64(m.B) @ np.float64(m.A) for m in (module, other.modules[name]))
        error, total = error + float(((mine - theirs) ** 2).sum()), total + float((mine**2).sum())
    return (error / total) ** 0.5


def row_of(chosen: Sequence[Adapter], layer: Sequence[Adapter], id: str, knobs: dict[str, Any], device: str) -> Figures:
    """One method on the CPU and on the device: equal results, seconds, and their ratio."""
    results = [merged(layer, id, knobs, one) for one in ("cpu", device)]
    row: Figures = {"modules": len(chosen[0].modules), "difference": difference(*results)}
    row["device_seconds"] = seconds(chosen, id, knobs, device, 2)
    row["cpu_seconds"] = seconds(chosen, id, knobs, "cpu", 2 if id in WHOLE else 1)
    return {**row, "ratio": row["cpu_seconds"] / row["device_seconds"]}


def page_table(found: Mapping[str, Any]) -> str:
    """The figures as Markdown, and which methods have none."""
    every = WHOLE | LAYER
    lines = ["| method | modules | GPU | CPU | times |", "| --- | --- | --- | --- | --- |"]
    for id, row in found["methods"].items():
        times = f"{row['device_seconds']:.2f} s | {row['cpu_seconds']:.2f} s | {row['ratio']:.1f} ×"
        lines.append(f"| `{id}` | {row['modules']} | {times} |")
    missing = [f"`{id}`" for id in every if id not in found["methods"]]
    machine = f"{found['gpu']}, beside {found['machine']['threads']} threads of {found['machine']['cores']} CPU cores"
    said = f"{machine}; torch {found['torch']}."
    gaps = f" Not measured, the run was cut off before them: {', '.join(missing)}." if missing else ""
    return "\n".join([*lines, "", said + gaps])


def page(text: str) -> str:
    """docs/reference/methods.md with the figures as the file has them; raises `ValueError` where the marks are gone."""
    return between(text, MARK, page_table(json.loads(RESULTS.read_text())))


def main() -> None:
    """Measure, print and keep; on `--device cpu` the same is run against itself and nothing is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=BATCHES, default="cuda")
    parser.add_argument("--shape", choices=SHAPES, default="llama-8b")
    parser.add_argument("--methods", nargs="*", default=[*WHOLE, *LAYER])
    parser.add_argument("--page", action="store_true", help="measure nothing, write the table into the docs")
    options = parser.parse_args()
    if options.page:
        write_atomic(PAGE, page(PAGE.read_text(encoding="utf-8")).encode())
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "There is no CUDA device here; --device cpu runs the same code without one.\n")
    shape = SHAPES[options.shape]
    every = [in_memory(adapter(number, shape, RANK, Clock())) for number in range(SOURCES)]
    layer = [in_memory(adapter(number, shape, RANK, Clock(), "layers.0.")) for number in range(SOURCES)]
    found: dict[str, Any] = {"machine": machine(), "torch": torch.__version__, "methods": {}}
    for id in options.methods:
        row = row_of(every if id in WHOLE else layer, layer, id, (WHOLE | LAYER)[id], options.device)
        found["methods"][id] = row
        print(id, json.dumps(row), flush=True)
        if options.device == "cuda":
            RESULTS.write_text(json.dumps({**found, "gpu": torch.cuda.get_device_name()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
