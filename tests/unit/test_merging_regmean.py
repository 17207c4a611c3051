"""RegMean against the formula written densely, and against what it is for: least squares on each source's inputs."""

from __future__ import annotations

import pytest
import torch

from studio.core.errors import CannotMerge
from studio.core.linalg import Pair
from studio.merging.regmean import LAWS, regmean


def sources(count: int = 3) -> tuple[list[Pair], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    pairs = [
        Pair(torch.randn(3, 12, generator=generator), torch.randn(10, 3, generator=generator)) for _ in range(count)
    ]
    return pairs, [torch.randn(40, 12, generator=generator).double() for _ in range(count)]


@pytest.mark.parametrize("keep", [1.0, 0.9, 0.0])
def test_it_is_the_formula(keep: float) -> None:
    pairs, inputs = sources()
    weights = torch.tensor([1.0, 0.5, -0.3])
    grams = [x.T @ x for x in inputs]
    shrunk = [torch.where(torch.eye(12) > 0, gram, keep * gram) for gram in grams]
    wanted = sum(w * p.double().delta() @ g for w, p, g in zip(weights.double(), pairs, shrunk, strict=True))
    wanted = wanted @ torch.linalg.inv(sum(shrunk))
    torch.testing.assert_close(regmean(pairs, grams, weights, keep=keep).double().delta(), wanted, rtol=1e-5, atol=1e-5)


def test_it_minimises_the_squared_error_on_every_sources_inputs() -> None:
    pairs, inputs = sources()
    x = torch.cat(inputs)
    y = torch.cat([own @ pair.double().delta().T for own, pair in zip(inputs, pairs, strict=True)])
    best = torch.linalg.lstsq(x, y).solution.T
    found = regmean(pairs, [own.T @ own for own in inputs], keep=1.0).double().delta()
    torch.testing.assert_close(found, best, rtol=1e-5, atol=1e-5)


def test_one_source_comes_back() -> None:
    pairs, inputs = sources(1)
    found = regmean(pairs, [inputs[0].T @ inputs[0]])
    torch.testing.assert_close(found.delta(), pairs[0].delta(), rtol=1e-5, atol=1e-5)


def test_fewer_inputs_than_dimensions_are_enough() -> None:
    pairs, inputs = sources(2)
    found = regmean(pairs, [own[:3].T @ own[:3] for own in inputs])
    assert bool(found.A.isfinite().all())
    silent = regmean(pairs, [torch.zeros(12, 12), torch.zeros(12, 12)])
    assert not silent.delta().any()


def test_modules_are_batched() -> None:
    pairs, inputs = sources(2)
    grams = [own.T @ own for own in inputs]
    twice = [Pair(torch.stack([p.A, 2 * p.A]), torch.stack([p.B, p.B])) for p in pairs]
    found = regmean(twice, [torch.stack([gram, gram]) for gram in grams]).delta()
    torch.testing.assert_close(found[1], 2 * regmean(pairs, grams).delta(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gram", [torch.eye(11), torch.full((12, 12), float("nan"))])
def test_what_does_not_fit_is_refused(gram: torch.Tensor) -> None:
    pairs, _ = sources(1)
    with pytest.raises(CannotMerge):
        regmean(pairs, [gram])


def test_its_laws() -> None:
    """What it declares, as the contract tests hold registered methods to it."""
    pairs, inputs = sources()
    grams = [x.T @ x for x in inputs]
    weights = torch.tensor([1.0, 0.5, -0.3])
    merged = regmean(pairs, grams, weights).delta()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1))).Q * 2
    turned = [Pair(turn @ pair.A, pair.B @ turn.inverse()) for pair in pairs]
    same = {
        "order": regmean(pairs[::-1], grams[::-1], weights.flip(0)).delta(),
        "gauge": regmean(turned, grams, weights).delta(),
        "homogeneous": regmean(pairs, grams, 4 * weights).delta() / 4,
    }
    for law, found in same.items():
        assert getattr(LAWS, law)
        torch.testing.assert_close(found, merged, rtol=1e-4, atol=1e-4)
    plain = sum(w * pair.delta() for w, pair in zip(weights, pairs, strict=True))
    assert not LAWS.exact
    assert torch.linalg.vector_norm(merged - plain) > 0.1 * torch.linalg.vector_norm(plain)
