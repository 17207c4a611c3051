"""The policy's probabilities, its sampler, the estimator against exact enumeration, and effective support."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from studio.core.errors import BadRecipe
from studio.routing.ess import bound_probability, collapse, effective_support, support_bound
from studio.routing.policy import (
    best,
    entropy,
    log_policy,
    log_probability,
    ordered_selections,
    sample,
    subset_probability,
)
from studio.routing.rloo import advantages, surrogate
from studio.routing.router import Router


def policy(n: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return log_policy(scale * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


@pytest.mark.parametrize(("n", "k"), [(2, 1), (4, 2), (5, 3), (4, 4), (6, 1)])
def test_probabilities_of_all_ordered_selections_sum_to_one(n: int, k: int) -> None:
    every = ordered_selections(n, k)
    found = log_probability(policy(n, scale=2.0).expand(len(every), n), every).exp()
    assert found.sum().item() == pytest.approx(1.0, abs=1e-9)


def test_probability_is_the_product_of_draws_without_replacement() -> None:
    q = policy(4).exp()
    found = log_probability(q.log(), torch.tensor([2, 0, 3])).exp()
    expected = q[2] * q[0] / (1 - q[2]) * q[3] / (1 - q[2] - q[0])
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def test_gumbel_top_k_draws_ordered_selections_by_their_probability() -> None:
    log_q, count = policy(4, scale=1.5), 200_000
    drawn = sample(log_q.expand(count, 4), 2, torch.Generator().manual_seed(1))
    every = ordered_selections(4, 2)
    expected = log_probability(log_q.expand(len(every), 4), every).exp()
    seen = torch.stack([(drawn == order).all(-1).double().mean() for order in every])
    assert (seen - expected).abs().max() < 4 * (0.25 / count) ** 0.5  # four standard errors at most
    assert (drawn[:, 0] != drawn[:, 1]).all()


def test_same_seed_draws_the_same() -> None:
    log_q = policy(6).expand(10, 6)
    one, two = (sample(log_q, 3, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, two)


def test_subset_probability_is_the_sum_over_its_orders() -> None:
    log_q = policy(5, scale=2.0)
    subsets = torch.tensor(list(combinations(range(5), 2)))
    found = subset_probability(log_q.expand(len(subsets), 5), subsets)
    assert found.sum().item() == pytest.approx(1.0, abs=1e-9)


def test_theorem_2_holds_wherever_a_subset_is_likelier_than_one_half() -> None:
    subsets, checked = torch.tensor(list(combinations(range(5), 2))), 0
    for seed in range(60):
        log_q = policy(5, seed, scale=3.0)
        found = subset_probability(log_q.expand(len(subsets), 5), subsets)
        if found.max() > 0.5:
            checked += 1
            assert set(subsets[found.argmax()].tolist()) == set(best(log_q, 2).tolist())
    assert checked > 10


@pytest.mark.parametrize("gap", [4.0, 14.0, 20.0, 60.0, 600.0])
def test_probabilities_of_all_selections_add_up_to_one_however_sure_the_policy_is(gap: float) -> None:
    every = ordered_selections(4, 3)
    log_q = log_policy(torch.tensor([gap, 0.0, -0.5, -gap], dtype=torch.float32))
    assert log_probability(log_q.expand(len(every), 4), every).exp().sum().item() == pytest.approx(1.0, rel=1e-4)


def test_inference_takes_the_largest_scores_where_a_clip_would_tie_them() -> None:
    scores = torch.tensor([[10.5], [11.0], [25.0], [-3.0]])
    about = {"names": ("a", "b", "c", "d"), "weight": scores[None], "center": torch.zeros(1, 1), "scale": torch.ones(1)}
    for k, expected in ((1, {2}), (2, {1, 2})):
        weights = Router(**about, k=k).route(torch.ones(1, 1))
        assert set(weights[0].nonzero()[:, 0].tolist()) == expected


def test_a_nearly_certain_policy_stays_finite() -> None:
    log_q = log_policy(torch.tensor([1e9, 0.0, -1e9], dtype=torch.float32)).requires_grad_()
    found = log_probability(log_q, torch.tensor([0, 1, 2]))
    found.backward()
    assert found.isfinite()
    assert log_q.grad.isfinite().all()


def test_entropy_of_even_and_of_certain_policies() -> None:
    assert entropy(log_policy(torch.zeros(8))).item() == pytest.approx(np.log(8), rel=1e-6)
    assert entropy(log_policy(torch.tensor([10.0, -10.0, -10.0]))).item() == pytest.approx(0, abs=1e-6)


def test_too_many_selections_are_refused() -> None:
    with pytest.raises(BadRecipe, match="cannot be listed"):
        ordered_selections(30, 10)
    with pytest.raises(BadRecipe, match="cannot be listed"):
        ordered_selections(2, 3)


# -- the estimator -----------------------------------------------------------------------------------------------------


def losses_of(chosen: torch.Tensor, n: int) -> torch.Tensor:
    """A loss of the unordered subset that no linear rule gives."""
    table = torch.rand(n, n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    table = table + table.T
    return table[chosen[..., 0], chosen[..., -1]]


def exact_gradient(logits: torch.Tensor, k: int) -> torch.Tensor:
    """The gradient of the expected loss, by enumeration."""
    logits = logits.clone().requires_grad_()
    every = ordered_selections(len(logits), k)
    chances = log_probability(log_policy(logits).expand(len(every), -1), every).exp()
    (chances * losses_of(every, len(logits))).sum().backward()
    return logits.grad


@pytest.mark.parametrize(("n", "k"), [(3, 1), (4, 2)])
def test_estimator_expects_the_exact_gradient_over_all_pairs_of_selections(n: int, k: int) -> None:
    """M = 2: the mean over every pair of ordered selections, each by its probability, is exact."""
    logits = torch.randn(n, generator=torch.Generator().manual_seed(5), dtype=torch.float64).requires_grad_()
    every = ordered_selections(n, k)
    first = torch.arange(len(every)).repeat_interleave(len(every))
    second = torch.arange(len(every)).repeat(len(every))
    log_q = log_probability(log_policy(logits).expand(len(every), -1), every)
    chances = (log_q[first] + log_q[second]).exp().detach()
    pairs = torch.stack([first, second])
    losses = losses_of(every, n)[pairs]
    each = (advantages(losses) * log_q[pairs]).sum(0)  # M - 1 is 1
    (chances * each).sum().backward()
    assert torch.allclose(logits.grad, exact_gradient(logits.detach(), k), atol=1e-10)


@pytest.mark.parametrize("samples", [2, 8])
def test_estimator_is_unbiased_by_many_samples(samples: int) -> None:
    n, k, count = 5, 2, 40_000
    logits = torch.randn(n, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    live = logits.expand(count, n).clone().requires_grad_()
    log_q = log_policy(live).expand(samples, count, n)
    chosen = sample(log_q, k, torch.Generator().manual_seed(8))
    surrogate(losses_of(chosen, n), log_probability(log_q, chosen)).backward()
    each = live.grad * count  # one unbiased estimate a line
    error = each.std(0) / count**0.5
    assert ((each.mean(0) - exact_gradient(logits, k)).abs() < 4.5 * error).all()


def test_both_forms_of_the_baseline_agree() -> None:
    losses = torch.rand(4, 3, dtype=torch.float64)
    log_q = torch.rand(4, 3, dtype=torch.float64)
    others = (losses.sum(0) - losses) / 3
    left_out = ((losses - others) * log_q).mean(0)
    assert torch.allclose((advantages(losses) * log_q).sum(0) / 3, left_out)


def test_surrogate_gives_adapters_the_mean_gradient_and_the_router_none_of_it() -> None:
    weight = torch.ones(3, requires_grad=True)
    log_q = torch.zeros(2, 3, requires_grad=True)
    losses = torch.stack([2 * weight, 4 * weight])
    surrogate(losses, log_q).backward()
    assert torch.allclose(weight.grad, torch.full((3,), 1.0))  # the mean of 2 and 4 over three examples
    assert torch.allclose(log_q.grad, torch.tensor([[-1.0] * 3, [1.0] * 3]) / 3)


def test_one_selection_is_not_enough() -> None:
    with pytest.raises(BadRecipe, match="no other to compare"):
        advantages(torch.ones(1, 4))


# -- effective support -------------------------------------------------------------------------------------------------


def test_support_lies_between_one_and_n() -> None:
    weights = np.random.default_rng(0).standard_normal((1000, 6)) ** 3
    found = effective_support(weights)
    assert (found >= 1).all()
    assert (found <= 6 + 1e-12).all()
    assert effective_support([0, 0, 5]) == 1
    assert effective_support([1, -1, 1, 1]) == 4
    assert effective_support([0.0, 0.0]) == 0
    assert effective_support([1e-300, 1e-300]) == 2


@pytest.mark.parametrize(
    ("norm", "share", "mean"), [(32, 0.992, 1.07), (8, 0.895, 1.33), (4, 0.688, 1.75), (1, 0.015, 4.68)]
)
def test_collapse_simulation_gives_the_specified_figures(norm: float, share: float, mean: float) -> None:
    found = collapse(norm)
    assert found.share_below(2) == pytest.approx(share, abs=0.004)
    assert found.mean == pytest.approx(mean, abs=0.01)


def test_printed_bound_gives_67_and_not_the_papers_84_percent() -> None:
    assert bound_probability(32) == pytest.approx(0.675, abs=0.001)
    assert bound_probability(32, 3) == pytest.approx(0.740, abs=0.001)
    assert bound_probability(32) < 0.8419
    assert support_bound(32, 1 - bound_probability(32)) == pytest.approx(2.0, rel=1e-9)


@pytest.mark.parametrize("norm", [1.0, 8.0, 32.0, 100.0])
def test_bound_is_true_in_simulation(norm: float) -> None:
    found = collapse(norm, draws=20_000)
    for support in (1.5, 2.0, 3.0):
        assert found.share_below(support) >= bound_probability(norm, support)


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scales_are_refused(norm: float) -> None:
    with pytest.raises(BadRecipe, match="out of bounds"):
        collapse(norm)
