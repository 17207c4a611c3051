"""What a merge costs as adapters, ranks and modules grow: `python -m bench.curves`

Random adapters at the shapes of Llama 3.1 8B; one of three numbers grows, the others stay at 4 adapters, rank 16 and 2
layers of 7 modules. Processor seconds of one thread, drawing the random numbers left out, through the studio with its
report. Elementwise methods are in bench/dense.py: theirs is the cost of the dense delta, whatever N and r. Writes
bench/results/curves.json and docs/images/cost.svg; `--draw` draws the figures that are there.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any

import torch

from bench.synthetic import LLAMA_8B, Clock, adapter, machine
from studio.composing.compose import compose, recipe_for
from studio.core.files import write_atomic
from studio.recipes.sources import Sources

RESULTS = Path(__file__).parent / "results" / "curves.json"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "cost.svg"
METHODS = {"cat": {}, "svd": {}, "tsv": {}, "knots": {}, "core": {}, "lego": {"k": 16}}


@dataclass(frozen=True)
class Case:
    """The size of one merge."""

    adapters: int = 4
    rank: int = 16
    layers: int = 2


AXES = {
    "adapters": [Case(adapters=n) for n in (2, 4, 8, 16)],
    "rank": [Case(rank=r) for r in (4, 8, 16, 32, 64)],
    "layers": [Case(layers=n) for n in (1, 2, 4, 8)],
}


def seconds(method: str, case: Case) -> float:
    """Processor seconds of one merge."""
    clock = Clock()
    shape = replace(LLAMA_8B, layers=case.layers)
    sources = tuple(adapter(number, shape, case.rank, clock) for number in range(case.adapters))
    started = process_time()
    compose(recipe_for(sources, method, None, METHODS[method]), Sources(sources))
    return process_time() - started - clock.cpu_seconds


def measured() -> dict[str, Any]:
    """Every method along every axis; the case in the middle is measured once."""
    known: dict[tuple[str, Case], float] = {}
    for method in METHODS:
        seconds(method, Case(2, 2, 1))  # imports
        for case in dict.fromkeys(case for cases in AXES.values() for case in cases):
            known[method, case] = seconds(method, case)
            print(method, case, f"{known[method, case]:.3f}", flush=True)
    return {
        axis: {
            "values": [getattr(case, axis) for case in cases],
            **{method: [known[method, case] for case in cases] for method in METHODS},
        }
        for axis, cases in AXES.items()
    }


COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito, for colour-blind eyes
WIDTH, HEIGHT, LEFT, TOP = 250, 220, 44, 30


def svg(found: dict[str, Any]) -> str:
    """The three panels, both scales logarithmic, as a picture that is readable on light and dark pages."""
    total = 3 * (WIDTH + LEFT) + 20
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {TOP + HEIGHT + 70}" '
        'font-family="sans-serif" font-size="12" fill="#767676">',
        "<title>Processor seconds of a merge by adapters, rank and layers</title>",
    ]
    every = [y for axis in AXES for method in METHODS for y in found[axis][method]]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    for index, axis in enumerate(AXES):
        lines += panel(found[axis], axis, LEFT + index * (WIDTH + LEFT), low, high)
    for index, (method, colour) in enumerate(zip(METHODS, COLOURS, strict=True)):
        x, y = LEFT + 90 * index, TOP + HEIGHT + 56
        lines.append(f'<circle cx="{x}" cy="{y - 4}" r="5" fill="{colour}"/><text x="{x + 10}" y="{y}">{method}</text>')
    return "\n".join([*lines, "</svg>\n"])


def panel(rows: dict[str, Any], axis: str, left: int, low: int, high: int) -> list[str]:
    """One axis: a line a method, ticks at the measured values and at powers of ten."""
    values = rows["values"]
    first, last = math.log(values[0]), math.log(values[-1])
    xs = [left + 10 + (WIDTH - 20) * (math.log(v) - first) / (last - first) for v in values]
    height = {p: TOP + HEIGHT * (high - p) / (high - low) for p in range(low, high + 1)}
    lines = [f'<text x="{left + WIDTH / 2:.0f}" y="18" text-anchor="middle">seconds by {axis}</text>']
    for power, y in height.items():
        lines.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#999" opacity=".35"/>')
        lines.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for x, value in zip(xs, values, strict=True):
        lines.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{value}</text>')
    for method, colour in zip(METHODS, COLOURS, strict=True):
        ys = [TOP + HEIGHT * (high - math.log10(y)) / (high - low) for y in rows[method]]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in zip(xs, ys, strict=True)]
    return lines


def main() -> None:
    """Measure and draw, or draw what is there."""
    torch.set_num_threads(1)
    if "--draw" not in sys.argv:
        RESULTS.write_text(json.dumps({"machine": machine(), **measured()}, indent=1) + "\n")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(PICTURE, svg(json.loads(RESULTS.read_text())).encode())


if __name__ == "__main__":
    main()
