"""Which bases Core Space should take: the stacked factors', as published, or the deltas', which are ours.

`python -m bench.core_bases`: both with TIES at three densities, and with the exact sum as a check, over the pairs of
embedded adapters; exact answers to the compositions and to the own skills, with a paired interval for the difference.
Writes bench/results/core_bases.json.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

import studio
from bench.evidence.world import EVERY, SHIPPED, Size, World, adapters_of
from studio.core.files import write_atomic
from studio.evaluation.intervals import mean_interval
from studio.text.bases import open_base
from studio.text.folders import EMBEDDED

RESULTS = Path(__file__).parent / "results" / "core_bases.json"
DENSITIES = (0.3, 0.5, 0.8)
BASES = ("factors", "deltas")


def main() -> None:
    """Measure every pair and print the table."""
    torch.set_num_threads(1)
    world = World(open_base(EMBEDDED), adapters_of(SHIPPED), 0, Size())
    rows = {pair: measured(world, pair) for pair in EVERY}
    write_atomic(RESULTS, (json.dumps({"densities": DENSITIES, "rows": rows}, indent=1) + "\n").encode())
    for density in DENSITIES:
        print(f"density {density}: {summary(rows, density)}")


def measured(world: World, pair: str) -> dict[str, dict[str, str]]:
    """Outcomes by variant and task, one 0 or 1 an item."""
    ab = world.pair(pair)
    variants = {
        f"{basis} {density}": studio.merge(ab, "core", [1, 1], density=density, basis=basis)
        for basis in BASES
        for density in DENSITIES
    }
    sums = [studio.merge(ab, "core", [1, 1], combine="sum", basis=basis) for basis in BASES]
    name = next(iter(sums[0].modules))
    np.testing.assert_allclose(sums[0].delta(name), sums[1].delta(name), atol=1e-5)
    found = world.measure(variants, pair)
    print(pair, {name: round(100 * share(tasks), 1) for name, tasks in found.items()}, flush=True)
    return found


def share(tasks: dict[str, str]) -> float:
    """The share of right answers over all tasks."""
    bits = "".join(tasks.values())
    return bits.count("1") / len(bits)


def summary(rows: dict[str, dict[str, dict[str, str]]], density: float) -> str:
    """Factors minus deltas over all items of all pairs, in points, with a 95 % interval over items."""
    bits = {
        basis: np.array(
            [int(bit) for pair in rows.values() for task in pair[f"{basis} {density}"].values() for bit in task]
        )
        for basis in BASES
    }
    means = ", ".join(f"{basis} {100 * values.mean():.1f} %" for basis, values in bits.items())
    difference = mean_interval(100.0 * (bits["factors"] - bits["deltas"]))
    return f"{means}; factors - deltas {difference.value:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}] points"


if __name__ == "__main__":
    main()
