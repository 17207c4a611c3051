"""LEGO with the gauge fixed: what the forms are blind to, and that matching signs do not cancel."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from studio.core.linalg import Pair
from studio.merging import method_by_id
from studio.merging.lego import balanced, pool_of, sign_aligned, unit_gram
from studio.merging.registry import Draw

RANK = 5


def pairs(count: int = 3) -> list[Pair]:
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn
    return [Pair(draw(2, RANK, 30, generator=generator), draw(2, 20, RANK, generator=generator)) for _ in range(count)]


def delta(sources: list[Pair], **knobs: Any) -> torch.Tensor:
    lego = method_by_id("lego")
    settings = lego.check(knobs)
    weights = torch.tensor([0.9, 0.4, -0.7]).expand(2, -1)[:, : len(sources)]
    return lego.run(sources, weights, **settings, draw=Draw(0, ("a", "b"))).pair.double().delta()


def regauged(pair: Pair, gauge: torch.Tensor) -> Pair:
    """(B R^-1)(R A): the same delta."""
    return Pair(gauge @ pair.A, pair.B @ torch.linalg.inv(gauge))


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other))


SIGNS_AND_SIZES = torch.diag(torch.tensor([2.0, -0.5, -3.0, 1.0, -1.0]))
ANY = torch.randn(RANK, RANK, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("form", "feature", "gauge"),
    [
        ("balanced", "joint", SIGNS_AND_SIZES),
        ("balanced", "half_normalised", SIGNS_AND_SIZES),
        ("aligned", "joint", SIGNS_AND_SIZES),
        ("aligned", "joint", ANY),  # half-normalised, an adapter's directions are equally far apart: rounding decides
    ],
)
def test_a_gauge_that_is_fixed_changes_nothing(form: str, feature: str, gauge: torch.Tensor) -> None:
    sources = pairs()
    before = delta(sources, k=4, form=form, feature=feature)
    after = delta([regauged(sources[0], gauge), *sources[1:]], k=4, form=form, feature=feature)
    assert distance(after, before) < 1e-4


@pytest.mark.parametrize(("form", "gauge"), [("raw", SIGNS_AND_SIZES), ("balanced", ANY)])
def test_one_that_is_not_fixed_matters(form: str, gauge: torch.Tensor) -> None:
    sources = pairs()
    after = delta([regauged(sources[0], gauge), *sources[1:]], k=4, form=form)
    assert distance(after, delta(sources, k=4, form=form)) > 0.1


@pytest.mark.parametrize("form", ["raw", "canonical", "balanced", "aligned"])
def test_every_unit_its_own_cluster_is_the_sum(form: str) -> None:
    sources = pairs()
    wanted = sum(w * pair.double().delta() for w, pair in zip((0.9, 0.4, -0.7), sources, strict=True))
    assert distance(delta(sources, k=3 * RANK, form=form, output_reweighting=False), wanted) < 1e-5


def test_balancing_keeps_each_unit_and_evens_its_halves() -> None:
    one = pairs(1)[0]
    even = balanced(Pair(one.A * 7, one.B.index_fill(-1, torch.tensor([2]), 0.0)))
    assert not even.A[:, 2].any()
    torch.testing.assert_close(
        torch.linalg.vector_norm(even.A, dim=-1), torch.linalg.vector_norm(even.B, dim=-2), rtol=1e-5, atol=1e-6
    )
    wanted = 7 * one.B[..., 3, None] * one.A[:, None, 3]
    torch.testing.assert_close(even.B[..., 3, None] * even.A[:, None, 3], wanted, rtol=1e-5, atol=1e-5)


def test_twins_of_opposite_sign_do_not_cancel() -> None:
    """An adapter and the same one with half its units' signs turned: their mean is the adapter, not zero."""
    one = pairs(1)[0]
    turned = regauged(one, torch.diag(torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0])))
    pool = pool_of([one, turned], torch.ones(2, 2), "raw")
    found = sign_aligned(pool, torch.arange(RANK).repeat(2).expand(2, -1), RANK)
    torch.testing.assert_close(found.A[:, :RANK], found.A[:, RANK:])
    torch.testing.assert_close(found.B[..., :RANK], found.B[..., RANK:])


def test_the_product_of_half_products_is_blind_to_the_sign() -> None:
    """Which is why it serves to cluster by, and not to align by."""
    one = pairs(1)[0]
    turned = regauged(one, torch.diag(torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0])))
    grams = [unit_gram(pool_of([pair], torch.ones(2, 1), "raw"), "joint", gauge_fixed=True) for pair in (one, turned)]
    torch.testing.assert_close(*grams)
