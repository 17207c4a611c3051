"""Where PEFT and mergekit disagree: each convention against its owner, or against its formula written densely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import peft.utils.merge_utils as theirs
import pytest
import torch

from studio.core.linalg import Pair
from studio.merging import method_by_id
from studio.merging.della import chance_by_place, reach
from studio.merging.registry import Draw
from tests.references import REFERENCES, Source, Stream

WEIGHTS = ([0.9, 0.4, 0.7], [0.9, -0.4, 0.7], [1.0, 1.0, 1.0])
FULL = 40 * 30
CONVENTIONS = [(election, mean) for election in ("mergekit", "peft", "count") for mean in ("peft", "mergekit", "none")]


def pairs(count: int = 3) -> list[Pair]:
    generator = torch.Generator().manual_seed(0)
    draw = [(torch.randn(1, 5, 30, generator=generator), torch.randn(1, 40, 5, generator=generator)) for _ in "abc"]
    return [Pair(*factors) for factors in draw[:count]]


def deltas(sources: Sequence[Pair]) -> list[torch.Tensor]:
    return [pair.double().delta()[0] for pair in sources]


def merged(id: str, weights: Sequence[float], **knobs: Any) -> torch.Tensor:
    """Our merge at full rank, where truncation changes nothing."""
    method = method_by_id(id)
    drawn = {"draw": Draw(0, ("m",))} if method.draws else {}
    settings = method.check({"rank": 30, **knobs})
    return method.run(pairs(), torch.tensor([list(weights)]), **settings, **drawn).pair.double().delta()[0]


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert torch.linalg.vector_norm(found - wanted) <= 1e-5 * torch.linalg.vector_norm(wanted)


def reference(id: str, weights: Sequence[float], **knobs: Any) -> torch.Tensor:
    sources = [Source(*(factor[0].double().numpy() for factor in pair)) for pair in pairs()]
    exact = [float(np.float32(weight)) for weight in weights]
    settings = method_by_id(id).check({"rank": 30, **knobs})
    return torch.from_numpy(REFERENCES[id](sources, exact, Stream(0, "m"), **settings))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("density", [0.2, 0.5, 0.77, 1.0])
@pytest.mark.filterwarnings("ignore:The density")
def test_ties_as_peft_does_it(weights: list[float], density: float) -> None:
    wanted = theirs.ties(deltas(pairs()), torch.tensor(weights).double(), density)
    same(merged("ties", weights, density=density, election="peft"), wanted)


def test_counted_votes_as_peft_counts_them() -> None:
    weights = [0.9, 0.4, 0.7]  # PEFT counts bare signs: the same where no weight is negative
    wanted = theirs.ties(deltas(pairs()), torch.tensor(weights).double(), 0.5, "frequency")
    same(merged("ties", weights, density=0.5, election="count"), wanted)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("density", [0.2, 0.77, 1.0])
@pytest.mark.filterwarnings("ignore:The density")
def test_pruning_as_peft_does_it(weights: list[float], density: float) -> None:
    wanted = theirs.magnitude_prune(deltas(pairs()), torch.tensor(weights).double(), density)
    same(merged("prune", weights, density=density), wanted)


@pytest.mark.parametrize("combine", ["sum", "ties"])
def test_dare_as_peft_does_it_with_our_coins(combine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT draws its masks from the global generator; given ours, its result is ours."""
    from studio.merging.thin import Coins

    masks = iter([(Coins(Draw(0, ("m",)), i)(torch.empty(1, 40, 30))[0] < 0.4).double() for i in range(3)])
    monkeypatch.setattr(theirs.torch, "bernoulli", lambda input: next(masks))
    theirs_by = {"sum": theirs.dare_linear, "ties": theirs.dare_ties}[combine]
    wanted = theirs_by(deltas(pairs()), torch.tensor([0.9, 0.4, 0.7]).double(), 0.4)
    same(merged("dare", [0.9, 0.4, 0.7], density=0.4, combine=combine, election="peft"), wanted)


@pytest.mark.parametrize(("election", "mean"), CONVENTIONS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("id", ["ties", "dare", "della"])
def test_every_convention_against_its_formula(id: str, weights: list[float], election: str, mean: str) -> None:
    knobs: dict[str, Any] = {"election": election, "mean": mean}
    knobs |= {} if id == "ties" else {"combine": "ties"}
    same(merged(id, weights, **knobs), reference(id, weights, **knobs))


@pytest.mark.parametrize("combine", ["sum", "ties"])
@pytest.mark.parametrize("id", ["dare", "della"])
def test_mergekits_rescaling_keeps_the_sum_of_magnitudes(id: str, combine: str) -> None:
    knobs: dict[str, Any] = {"combine": combine, "rescale": "mergekit", "density": 0.3}
    same(merged(id, [0.9, -0.4, 0.7], **knobs), reference(id, [0.9, -0.4, 0.7], **knobs))


def test_a_negative_weight_votes_in_mergekit_and_not_in_peft() -> None:
    """[3, 1] and [1, 3] with weights (1, -1) is [2, -2] where the weighted values vote."""
    values = [torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1.0, 3.0]]])]
    sources = [Pair(value, torch.ones(1, 1, 1)) for value in values]
    ties = method_by_id("ties")
    for election, wanted in (("mergekit", [3.0, -3.0]), ("peft", [1.0, -1.0])):
        knobs = ties.check({"density": 1.0, "election": election, "rank": 1})
        found = ties.run(sources, torch.tensor([[1.0, -1.0]]), **knobs).pair.delta()
        torch.testing.assert_close(found[0, 0], torch.tensor(wanted), rtol=1e-6, atol=1e-6)


def test_where_the_weights_that_agree_cancel_mergekit_divides_by_one() -> None:
    """Votes 1 and -1 * -1 agree on plus; their weights sum to zero."""
    sources = [Pair(torch.full((1, 1, 1), value), torch.ones(1, 1, 1)) for value in (1.0, -1.0)]
    ties = method_by_id("ties")
    knobs = ties.check({"density": 1.0, "mean": "mergekit"})
    assert ties.run(sources, torch.tensor([[1.0, -1.0]]), **knobs).pair.delta().item() == pytest.approx(2.0)


@pytest.mark.parametrize("id", ["dare", "della"])
def test_the_average_over_seeds_is_the_sum(id: str) -> None:
    method = method_by_id(id)
    knobs = method.check({"combine": "sum", "rank": 30, "density": 0.4})
    runs = [
        method.run(pairs(), torch.ones(1, 3), **knobs, draw=Draw(seed, ("m",))).pair.double().delta()[0]
        for seed in range(300)
    ]
    wanted = torch.stack(deltas(pairs())).sum(0)
    error = torch.linalg.vector_norm(torch.stack(runs).mean(0) - wanted) / torch.linalg.vector_norm(wanted)
    assert error < 2.5 * ((1 / 0.4 - 1) / 300) ** 0.5


@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.1), (0.05, 0.3), (0.9, 0.4), (1.0, 0.5)])
def test_dellas_chances(density: float, epsilon: float) -> None:
    """Rising with magnitude inside each row, evenly from end to end, never 0 or beyond 1, and of the right mean."""
    delta = deltas(pairs())[0][None]
    spread = reach(density, epsilon)
    chance = chance_by_place(delta, low=density - spread, high=density + spread)
    assert chance.mean().item() == pytest.approx(density)
    assert 0 < chance.min() <= chance.max() <= 1 + 1e-12
    in_order = chance.gather(-1, delta.abs().argsort(-1))
    assert (in_order.diff(dim=-1) >= 0).all()
    assert in_order[0, 0, -1].item() == pytest.approx(density + spread)


@pytest.mark.parametrize(
    ("density", "gamma", "kept", "dropped"),
    [(0.5, 0.1, 600, 120), (0.5, 0.0, 600, 0), (0.95, 0.1, 1140, 60), (1.0, 0.3, 1200, 0)],
)
def test_breadcrumbs_keeps_its_share_below_the_outliers(density: float, gamma: float, kept: int, dropped: int) -> None:
    """gamma 0 drops no outlier, where mergekit keeps nothing; the density comes before gamma."""
    breadcrumbs = method_by_id("breadcrumbs")
    one = pairs(1)
    knobs = breadcrumbs.check({"density": density, "gamma": gamma, "rank": 30})
    found = breadcrumbs.run(one, torch.ones(1, 1), **knobs).pair.double().delta()[0]
    order = deltas(one)[0].flatten().abs().argsort(descending=True)
    wanted = torch.zeros(FULL, dtype=torch.float64)
    inside = order[dropped : dropped + kept]
    wanted[inside] = deltas(one)[0].flatten()[inside]
    same(found.flatten(), wanted)


@pytest.mark.parametrize("id", ["prune", "breadcrumbs", "dare", "della"])
def test_density_one_prunes_nothing(id: str) -> None:
    knobs = {"density": 1.0} | ({"combine": "sum"} if id in {"dare", "della"} else {})
    same(
        merged(id, [0.9, 0.4, 0.7], **knobs), sum(w * d for w, d in zip([0.9, 0.4, 0.7], deltas(pairs()), strict=True))
    )
