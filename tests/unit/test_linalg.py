"""Low-rank algebra against the dense matrices that it never builds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from studio.core.linalg import Pair, Pairs, canonical, inner, spectrum, spectrum_of_sum, stack
from studio.merging.truncate import truncate

SHAPES = [(12, 20, (3, 2, 4)), (20, 12, (5, 5)), (6, 5, (4, 4)), (7, 7, (1,))]
WEIGHTS = torch.tensor([0.7, -1.3, 0.25], dtype=torch.float64)


def pair(d_out: int, d_in: int, rank: int, seed: int = 0, batch: int = 3) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(batch, rank, d_in, generator=generator, dtype=torch.float64)
    return Pair(a, torch.randn(batch, d_out, rank, generator=generator, dtype=torch.float64))


def pairs(d_out: int, d_in: int, ranks: tuple[int, ...]) -> Pairs:
    return Pairs(pair(d_out, d_in, rank, seed) for seed, rank in enumerate(ranks))


def dense_sum(sources: Pairs, weights: Tensor) -> Tensor:
    return torch.stack([w * one.delta() for w, one in zip(weights, sources, strict=True)]).sum(0)


@pytest.mark.parametrize("factor", [2.0, -0.5, 0.0, 1e-20, [1.0, -2.0, 0.0]])
def test_scaled_splits_the_root_evenly(factor: float | list[float]) -> None:
    one = pair(5, 7, 2)
    tensor = torch.as_tensor(factor, dtype=torch.float64)
    scaled = one.scaled(tensor if tensor.ndim else float(tensor))
    torch.testing.assert_close(scaled.delta(), tensor[..., None, None] * one.delta())
    torch.testing.assert_close(scaled.A, tensor.abs().sqrt()[..., None, None] * one.A)


@pytest.mark.parametrize("width", [255, 256, 700, 9000])
def test_units_are_multiplied_in_float64_however_long_they_are(width: int) -> None:
    sources = Pairs(one.single() for one in pairs(width + 1, width, (16, 3)))
    of_a, of_b = sources.unit_grams
    wide = stack([one.double() for one in sources])
    torch.testing.assert_close(of_a, wide.A @ wide.A.mT, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(of_b, wide.B.mT @ wide.B, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(("d_out", "d_in", "ranks"), SHAPES)
def test_inner_products_are_those_of_the_deltas(d_out: int, d_in: int, ranks: tuple[int, ...]) -> None:
    sources = pairs(d_out, d_in, ranks)
    dense = torch.stack([one.delta().flatten(1) for one in sources], 1)
    torch.testing.assert_close(sources.products, dense @ dense.mT)
    torch.testing.assert_close(stack(sources).delta(), dense_sum(sources, torch.ones(len(ranks))))
    other = pair(d_out, d_in, 3, seed=9)
    want = (dense @ other.delta().flatten(1)[..., None])[..., 0]
    torch.testing.assert_close(sources.inner_with(other), want)
    torch.testing.assert_close(inner(sources[0], other), want[:, 0])


@pytest.mark.parametrize(("d_out", "d_in", "ranks"), SHAPES)
def test_spectrum_of_sum_is_the_dense_svd(d_out: int, d_in: int, ranks: tuple[int, ...]) -> None:
    sources, weights = pairs(d_out, d_in, ranks), WEIGHTS[: len(ranks)]
    dense = dense_sum(sources, weights)
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    found = spectrum_of_sum(sources, weights)
    count = min(len(s[0]), found.S.shape[-1])
    torch.testing.assert_close(found.S[:, :count], s[:, :count], atol=1e-12, rtol=1e-10)
    for rank in range(1, count + 1):
        best = (u[..., :rank] * s[:, None, :rank]) @ vh[:, :rank]
        torch.testing.assert_close(found.pair(rank).delta(), best, atol=1e-10, rtol=1e-8)
        error = (dense - best).square().sum((1, 2)) / dense.square().sum((1, 2))
        torch.testing.assert_close(found.kept(rank), 1 - error, atol=1e-12, rtol=1e-10)
    few = spectrum_of_sum(sources, weights, 1)
    assert few.U.shape[-1] == few.V.shape[-1] == 1
    torch.testing.assert_close(few.S, found.S)
    torch.testing.assert_close(few.pair(1).delta(), found.pair(1).delta())


def test_spectrum_of_adapters_that_are_alike() -> None:
    """Stacked factors of deficient rank are what duplicates give."""
    one = pair(9, 8, 3)
    found = spectrum_of_sum([one, one, one], torch.tensor([1.0, 1.0, -1.0]))
    torch.testing.assert_close(found.pair(3).delta(), one.delta())
    assert float(found.S[:, 3:].abs().max()) < 1e-12 * float(found.S.max())


def test_a_zero_delta_keeps_all_of_nothing() -> None:
    zero = pair(5, 6, 2).scaled(0.0)
    found = spectrum(zero)
    assert found.kept(1).tolist() == [1, 1, 1]
    assert not found.pair(2).delta().any()


@pytest.mark.parametrize(("d_out", "d_in", "rank"), [(9, 8, 3), (3, 8, 5), (8, 3, 5)])
def test_canonical_form_depends_on_the_delta_alone(d_out: int, d_in: int, rank: int) -> None:
    one = pair(d_out, d_in, rank)
    form = canonical(one)
    mix = torch.randn(rank, rank, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    other = canonical(Pair(torch.linalg.solve(mix, one.A), one.B @ mix))
    torch.testing.assert_close(form.delta(), one.delta())
    for ours, theirs in zip(form, other, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-6)
    assert (form.A.shape, form.B.shape) == (one.A.shape, one.B.shape)
    rows, columns = form.A.norm(dim=-1), form.B.norm(dim=-2)
    torch.testing.assert_close(rows, columns)
    assert bool((rows.diff(dim=-1) <= 1e-12).all())
    assert bool((form.B.amax(-2) >= form.B.abs().amax(-2)).all())


@pytest.mark.parametrize("shape", [(30, 40), (40, 30), (1100, 1080), (2060, 2090)])
def test_truncate_is_the_best_pair_and_says_what_it_keeps(shape: tuple[int, int]) -> None:
    """Beyond 2048 on the shorter side the block Krylov route answers."""
    generator = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(shape[0], 30, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(shape[1], 30, generator=generator, dtype=torch.float64)).Q
    values = 0.9 ** torch.arange(30, dtype=torch.float64)
    found, kept = truncate(((u * values) @ v.T)[None], 8)
    best = (u[:, :8] * values[:8]) @ v[:, :8].T
    assert float((found.delta()[0] - best).norm() / best.norm()) < 1e-8
    assert float(kept) == pytest.approx(float(values[:8].square().sum() / values.square().sum()), rel=1e-8)


def test_what_no_weight_changes_is_computed_once() -> None:
    sources = pairs(6, 7, (2, 3))
    assert Pairs.of(sources) is sources
    assert sources.bases is sources.bases
    assert Pairs.of(list(sources)) is not sources
