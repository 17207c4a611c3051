"""KnOTS and core space beside their dense forms, on one k_proj of Llama 3.1 8B. `python -m bench.knots`

Four random adapters of rank 16 on a 1024 x 4096 module, TIES at density 0.5, one thread. The dense form builds every
delta and takes the SVD of them side by side, as the method is published; core space needs a second one, of them on top
of each other. Seconds are of the processor; the two results are compared. Writes bench/results/knots.json.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor

from bench.synthetic import machine
from studio.core.linalg import Pair
from studio.merging import method_by_id
from studio.merging.dense import Vote, elect, trim
from studio.merging.registry import Draw

RESULTS = Path(__file__).parent / "results" / "knots.json"
SOURCES, RANK, D_OUT, D_IN, DENSITY, REPEATS = 4, 16, 1024, 4096, 0.5, 5


def voted(pieces: list[Tensor]) -> Tensor:
    """TIES on the pieces, each trimmed to its largest entries."""
    kept = []
    for piece in pieces:
        stay = int(DENSITY * piece.numel())
        kept.append(trim(piece, smallest=piece.abs().flatten().kthvalue(piece.numel() - stay + 1).values))
    return elect(kept, weights=torch.ones(len(kept), dtype=torch.float64), vote=Vote())


def left_basis(deltas: list[Tensor]) -> Tensor:
    """The left singular vectors of the deltas side by side, as many as their ranks together."""
    u = torch.linalg.svd(torch.cat(deltas, 1), full_matrices=False).U
    return u[:, : SOURCES * RANK]


def dense_knots(deltas: list[Tensor]) -> Tensor:
    """KnOTS as published."""
    left = left_basis(deltas)
    return left @ voted([left.T @ delta for delta in deltas])


def dense_core(deltas: list[Tensor]) -> Tensor:
    """Core space with bases from dense SVDs."""
    left, right = left_basis(deltas), left_basis([delta.T for delta in deltas])
    return left @ voted([left.T @ delta @ right for delta in deltas]) @ right.T


def ours(id: str, pairs: list[Pair]) -> Tensor:
    """The studio's low-rank route, its pair multiplied out for the comparison."""
    knobs: dict[str, Any] = {**method_by_id(id).check({"density": DENSITY}), "draw": Draw(0, ("k_proj",))}
    pair = method_by_id(id).run(pairs, torch.ones(1, SOURCES), **knobs).pair
    return pair.double().delta()[0]


def seconds_of(work: partial[Tensor], repeats: int) -> tuple[float, Tensor]:
    """The least processor seconds of some runs, and the result."""
    taken = []
    for _ in range(repeats):
        started = process_time()
        result = work()
        taken.append(process_time() - started)
    return min(taken), result


def main() -> None:
    """Measure, print and keep."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    pairs = [Pair(draw(1, RANK, D_IN) / D_IN**0.5, draw(1, D_OUT, RANK) / D_OUT**0.5) for _ in range(SOURCES)]
    deltas = [pair.double().delta()[0] for pair in pairs]
    found: dict[str, Any] = {"machine": machine(), "module": [D_OUT, D_IN], "sources": SOURCES, "rank": RANK}
    for id, dense in (("knots", dense_knots), ("core", dense_core)):
        mine, got = seconds_of(partial(ours, id, pairs), REPEATS)
        theirs, want = seconds_of(partial(dense, deltas), 1)
        difference = float(torch.linalg.vector_norm(got - want) / torch.linalg.vector_norm(want))
        found[id] = {"cpu_seconds": mine, "dense_cpu_seconds": theirs, "ratio": theirs / mine, "difference": difference}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
