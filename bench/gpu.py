"""The same merges on the CPU and on CUDA: 4 random adapters of rank 16 at the shapes of Llama 3.1 8B, 224 modules.

`python -m bench.gpu`, on a machine with a GPU. Whole merges through the studio: factors from memory, with the report,
and the result back in memory. The dense methods merge one layer of 7 modules. Seconds are by the clock, the best of two
runs after one on a layer to warm up; `difference` is the relative distance of the two results on that layer. Writes
bench/results/gpu.json, or $OUT/gpu.json where OUT is set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from bench.synthetic import LLAMA_8B, Clock, adapter, machine
from studio.adapter import Adapter, in_memory_module
from studio.compose import Sources, compose, recipe_for

RESULTS = Path(os.environ.get("OUT", Path(__file__).parent / "results")) / "gpu.json"
SOURCES, RANK = 4, 16
BUDGETS = {"cpu": 256 << 20, "cuda": 8 << 30}
WHOLE = {"cat": {}, "svd": {}, "lego": {"k": 16}, "knots": {}, "core": {}, "tsv": {}, "iso": {}}
LAYER = {"ties": {"rank": 64}, "dare": {"rank": 64}, "della": {"rank": 64}, "breadcrumbs": {"rank": 64}}


def in_memory(drawn: Adapter) -> Adapter:
    """The adapter with its factors read once and kept."""
    modules = {name: in_memory_module(name, *module.load()) for name, module in drawn.modules.items()}
    return Adapter(drawn.name, modules, drawn.dialect)


def merged(adapters: Sequence[Adapter], id: str, knobs: dict[str, Any], device: str) -> Adapter:
    """One merge on one device."""
    sources = Sources(tuple(adapters), budget=BUDGETS[device], device=device)
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


def main() -> None:
    """Measure, print and keep."""
    every = [in_memory(adapter(number, LLAMA_8B, RANK, Clock())) for number in range(SOURCES)]
    layer = [in_memory(adapter(number, LLAMA_8B, RANK, Clock(), "layers.0.")) for number in range(SOURCES)]
    found: dict[str, Any] = {"machine": machine(), "gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    found["methods"] = {}
    for id, knobs in (WHOLE | LAYER).items():
        chosen = every if id in WHOLE else layer
        results = [merged(layer, id, knobs, device) for device in BUDGETS]
        row: dict[str, Any] = {"modules": len(chosen[0].modules), "difference": difference(*results)}
        row["cuda_seconds"] = seconds(chosen, id, knobs, "cuda", 2)
        row["cpu_seconds"] = seconds(chosen, id, knobs, "cpu", 2 if id in WHOLE else 1)
        row["ratio"] = row["cpu_seconds"] / row["cuda_seconds"]
        found["methods"][id] = row
        print(id, json.dumps(row), flush=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
