"""KnOTS, core space, TSV-M and Iso-C: what their papers promise, and that the low-rank route is the dense one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from studio.core.linalg import Pair
from studio.merging import method_by_id
from studio.merging.registry import Draw
from tests.references import REFERENCES, Source, Stream

D_OUT, D_IN, RANKS = 40, 50, (4, 3, 5)


def pairs() -> list[Pair]:
    generator = torch.Generator().manual_seed(0)
    return [
        Pair(torch.randn(1, rank, D_IN, generator=generator), torch.randn(1, D_OUT, rank, generator=generator))
        for rank in RANKS
    ]


def run(id: str, sources: list[Pair], weights: list[float], **knobs: Any) -> Pair:
    method = method_by_id(id)
    drawn = {"draw": Draw(0, ("m",))} if method.draws else {}
    return method.run(sources, torch.tensor([weights]), **method.check(knobs), **drawn).pair.double()


def spectrum(pair: Pair) -> torch.Tensor:
    return torch.linalg.svdvals(pair.delta()[0])


@pytest.mark.parametrize("weights", [[0.9, 0.4, 0.7], [0.9, -0.4, 0.7]])
@pytest.mark.parametrize("combine", ["ties", "dare", "sum"])
@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("id", ["knots", "core"])
def test_the_low_rank_route_is_the_dense_one(id: str, density: float, combine: str, weights: list[float]) -> None:
    found = run(id, pairs(), weights, density=density, combine=combine)
    sources = [Source(*(factor[0].double().numpy() for factor in pair)) for pair in pairs()]
    knobs = method_by_id(id).check({"density": density, "combine": combine})
    exact = [float(np.float32(weight)) for weight in weights]
    wanted = torch.from_numpy(REFERENCES[id](sources, exact, Stream(0, "m"), **knobs))
    assert torch.linalg.vector_norm(found.delta()[0] - wanted) <= 1e-5 * torch.linalg.vector_norm(wanted)
    assert found.rank <= sum(RANKS)


@pytest.mark.parametrize("id", ["knots", "core"])
def test_a_sum_in_the_common_basis_is_the_sum(id: str) -> None:
    wanted = sum(w * pair.double().delta() for w, pair in zip((0.9, -0.4, 0.7), pairs(), strict=True))
    torch.testing.assert_close(run(id, pairs(), [0.9, -0.4, 0.7], combine="sum").delta(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("id", ["knots", "core", "tsv", "iso"])
def test_sources_that_are_one_and_the_same_bring_no_new_directions(id: str) -> None:
    found = spectrum(run(id, [pairs()[0]] * 3, [1.0, 1.0, 1.0]))
    assert (found > 1e-5 * found[0]).sum() <= RANKS[0]


@pytest.mark.parametrize("triples", [0, 1, 3])
def test_tsv_keeps_directions_apart(triples: int) -> None:
    """Rank at most N q, and both halves orthonormal: the singular values of the merge are the sources' own."""
    found = spectrum(run("tsv", pairs(), [1.0, 1.0, 1.0], triples=triples))
    own = [
        torch.linalg.svdvals(pair.double().delta()[0])[: min(triples or rank, rank)]
        for pair, rank in zip(pairs(), RANKS, strict=True)
    ]
    wanted = torch.cat(own).sort(descending=True).values
    torch.testing.assert_close(found[: len(wanted)], wanted, rtol=1e-5, atol=1e-5)
    assert (found[len(wanted) :] < 1e-4).all()


def test_tsv_leaves_orthogonal_sources_as_they_are() -> None:
    eye = torch.eye(12)[None]
    sources = [Pair(eye[:, :3], 2 * eye[..., :3]), Pair(eye[:, 3:6], eye[..., 3:6])]
    wanted = sum(pair.delta() for pair in sources)
    torch.testing.assert_close(run("tsv", sources, [1.0, 1.0]).delta().float(), wanted, rtol=1e-5, atol=1e-6)


def test_iso_makes_every_direction_equally_strong_and_adds_none() -> None:
    """Averaging over the null space too, as the dense code does, would give rank min(d)."""
    weights = [0.9, 0.4, 0.7]
    total = sum(w * pair.double().delta()[0] for w, pair in zip(weights, pairs(), strict=True))
    found, before = spectrum(run("iso", pairs(), weights)), torch.linalg.svdvals(total)
    count = sum(RANKS)
    torch.testing.assert_close(found[:count], before[:count].mean().expand(count), rtol=1e-5, atol=1e-5)
    assert (found[count:] < 1e-4).all()
