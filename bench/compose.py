"""What a weight slider costs on the server: compose with its report, sources kept: `python -m bench.compose`

Random adapters of rank 8 on all 56 linear modules of a model of the embedded base's size. Every call has new weights,
as a moving slider gives; the first one also stacks the factors and is told apart. Writes bench/results/compose.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

from bench.synthetic import EMBEDDED, Clock, adapter, machine
from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter, in_memory_module
from studio.recipes.sources import Sources

RESULTS = Path(__file__).parent / "results" / "compose.json"
RANK, CALLS = 8, 15
WORKS = (("cat", 10), ("svd", 10), ("lego", 10), ("linear", 10), ("cat", 2), ("svd", 2), ("lego", 2), ("slerp", 2))


def held(number: int) -> Adapter:
    """A random adapter kept in memory."""
    drawn = adapter(number, EMBEDDED, RANK, Clock())
    modules = {name: in_memory_module(name, *module) for name, module in drawn.modules.items()}
    return Adapter(drawn.name, modules, drawn.dialect, base="lora-loom/text-base")


def slid(method: str, count: int) -> dict[str, float | int | str]:
    """Milliseconds of one method over `count` sources."""
    sources = Sources(tuple(held(number) for number in range(count)))
    wall, cpu = [], []
    for call in range(CALLS + 1):
        recipe = recipe_for(sources.adapters, method, [0.1 + 0.01 * (call + i) for i in range(count)], {})
        started, worked = perf_counter(), process_time()
        compose(recipe, sources)
        wall.append(1e3 * (perf_counter() - started))
        cpu.append(1e3 * (process_time() - worked))
    return {
        "method": method,
        "adapters": count,
        "first_ms": wall[0],
        "median_ms": median(wall[1:]),
        "median_cpu_ms": median(cpu[1:]),
    }


def main() -> None:
    """Measure and write the figures."""
    slid("cat", 2)  # imports, threads
    found = {"machine": machine(), "works": [slid(method, count) for method, count in WORKS]}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
