"""`svd` beside PEFT's, at the shapes of Llama 3.1 8B: 4 random adapters of rank 16 to rank 16. `python -m bench.svd`

Ours merges all 224 modules, streamed, with the report. PEFT's `add_weighted_adapter(combination_type="svd")`, which
builds the dense delta and decomposes it whole, is measured on single modules and compared with ours on the same one;
both deltas must agree. What the other modules would take is an estimate and is called so: a k or v module like the
measured k, every other at least like the measured q, than which none is smaller. Every measurement is a process of its
own with one thread, so that its peak memory is its own; ratios are of processor seconds, which neighbours disturb
least. Writes bench/results/svd.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from bench.synthetic import LLAMA_8B, Clock, adapter, machine, peak_memory
from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter
from studio.recipes.sources import Sources

RESULTS = Path(__file__).parent / "results" / "svd.json"
SOURCES, RANK = 4, 16
WEIGHTS = [1 / SOURCES] * SOURCES
MODULES = ("self_attn.k_proj", "self_attn.q_proj")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def adapters(clock: Clock, only: str = "") -> tuple[Adapter, ...]:
    """The four adapters, or one module of each."""
    return tuple(adapter(number, LLAMA_8B, RANK, clock, only) for number in range(SOURCES))


def merged(sources: tuple[Adapter, ...]) -> Adapter:
    """Our merge of what is there."""
    return compose(recipe_for(sources, "svd", WEIGHTS, {"rank": RANK}), Sources(sources)).adapter


def ours(only: str = "") -> dict[str, Any]:
    """Our merge of all modules or of one: seconds without those of drawing random numbers, and memory."""
    clock = Clock()
    sources = adapters(clock, only)
    merged(tuple(adapter(number, LLAMA_8B, 2, Clock(), in_first(MODULES[0])) for number in range(SOURCES)))  # imports
    before = peak_memory()
    started, cpu = perf_counter(), process_time()
    result = merged(sources)
    seconds, cpu = perf_counter() - started - clock.seconds, process_time() - cpu - clock.cpu_seconds
    return {
        "modules": len(result.modules),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "extra_bytes": peak_memory() - before,
        "result_bytes": 4 * sum(m.rank * (m.d_in + m.d_out) for m in result.modules.values()),
    }


def peft(only: str, full_matrices: bool) -> dict[str, Any]:
    """PEFT's merge of one module, its distance from ours, and memory."""
    from peft import LoraConfig, get_peft_model

    sources = adapters(Clock(), only)
    (module,) = sources[0].modules.values()
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["linear"])
    base = torch.nn.Sequential()
    base.add_module("linear", torch.nn.Linear(module.d_in, module.d_out, bias=False))
    model = get_peft_model(base, config, adapter_name="0")
    layer = model.base_model.model.linear
    with torch.no_grad():
        for number, source in enumerate(sources):
            if number:
                model.add_adapter(str(number), config)
            a, b = source.modules[only]
            layer.lora_A[str(number)].weight.copy_(torch.from_numpy(a))
            layer.lora_B[str(number)].weight.copy_(torch.from_numpy(b))
    names = [str(number) for number in range(SOURCES)]
    before, started, cpu = peak_memory(), perf_counter(), process_time()
    model.add_weighted_adapter(
        names, WEIGHTS, "merged", combination_type="svd", svd_rank=RANK, svd_full_matrices=full_matrices
    )
    seconds, cpu, extra = perf_counter() - started, process_time() - cpu, peak_memory() - before
    theirs = layer.get_delta_weight("merged").detach().double().numpy()
    mine = merged(sources).delta(only).astype(np.float64)
    return {
        "full_matrices": full_matrices,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "extra_bytes": extra,
        "difference": float(np.linalg.norm(theirs - mine) / np.linalg.norm(mine)),
    }


def in_first(module: str) -> str:
    """A module's name in the first layer."""
    return f"model.layers.0.{module}"


def apart(*arguments: str) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, "-m", "bench.svd", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **ONE_THREAD})
    found = done.stdout.splitlines()[-1]
    print(*arguments, found, flush=True)
    measured: dict[str, Any] = json.loads(found)
    return measured


def compared(module: str) -> dict[str, Any]:
    """One module: ours, and PEFT's by default and told to spare what it throws away."""
    only = in_first(module)
    (shape,) = [(d_out, d_in) for name, d_out, d_in in LLAMA_8B.modules() if name == only]
    row: dict[str, Any] = {"module": only, "shape": shape, "ours": apart("--ours", only)}
    for name, flag in (("peft", "1"), ("peft_reduced", "0")):
        row[name] = apart("--peft", only, flag)
        row[f"{name}_cpu_ratio"] = row[name]["cpu_seconds"] / row["ours"]["cpu_seconds"]
    return row


def estimated(rows: list[dict[str, Any]], way: str) -> float:
    """At least how many processor seconds PEFT would take for all modules, by the two that were measured."""
    k, q = (float(row[way]["cpu_seconds"]) for row in rows)
    return sum(k if d_out == LLAMA_8B.key_width else q for _, d_out, _ in LLAMA_8B.modules())


def main() -> None:
    """Measure everything, or the one thing that a process of its own is for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", nargs="?", const="", help=argparse.SUPPRESS)
    parser.add_argument("--peft", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours is not None:
        print(json.dumps(ours(options.ours)))
    elif options.peft:
        print(json.dumps(peft(options.peft[0], options.peft[1] == "1")))
    else:
        about = {**machine(), "threads": 1}
        whole = min((apart("--ours") for _ in range(3)), key=lambda run: float(run["cpu_seconds"]))
        rows = [compared(module) for module in MODULES]
        found: dict[str, Any] = {"machine": about, "ours": whole, "modules": rows}
        for way in ("peft", "peft_reduced"):
            found[f"{way}_cpu_seconds_at_least"] = estimated(rows, way)
            found[f"{way}_cpu_ratio_at_least"] = estimated(rows, way) / whole["cpu_seconds"]
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
