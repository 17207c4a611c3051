"""Every router kind keeps what its record promises, and is known wherever routers are."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from studio.cli.route import add_route
from studio.core.errors import BadRecipe
from studio.learning.fit import Schedule
from studio.routing.comparison import BASELINES
from studio.routing.kinds import RouterKind, kind_by_id, kinds, trainable
from studio.routing.policy import log_policy, sample
from studio.routing.router import Router, fresh, load_router
from studio.routing.train import Features, Settings, train
from tests.contract.registry import unlisted
from tests.waiting import LIMIT

N = 6
EACH = pytest.mark.parametrize("kind", kinds().values(), ids=kinds())
TRAINABLE = pytest.mark.parametrize("kind", trainable().values(), ids=trainable())
BY_K = pytest.mark.parametrize("k", range(1, N + 1))


def policies(count: int = 50, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """log q (count, N), from undecided to nearly certain; no two adapters are alike."""
    scales = torch.logspace(-1, 0.4, count, dtype=dtype)[:, None]
    draw = torch.Generator().manual_seed(0)
    return log_policy(scales * torch.randn(count, N, generator=draw, dtype=dtype))


def test_every_kind_that_is_declared_is_listed() -> None:
    assert unlisted("studio.routing.kinds", RouterKind, kinds()) == []


@EACH
def test_a_kind_says_what_it_is(kind: RouterKind) -> None:
    assert kind.id == kind.weights.__name__ == kind.id.lower()
    assert kind.title
    assert kind.source
    assert kind.formula
    assert kind.summary.endswith(".")
    assert kind.why.endswith(".")
    assert kind.trained_by in ("draws", "gradient", "nothing")
    assert 1 <= kind.least_k <= N


@EACH
@BY_K
def test_weights_are_none_negative_sum_to_k_and_are_as_sparse_as_promised(kind: RouterKind, k: int) -> None:
    weights = kind.weights(policies(), k)
    assert weights.shape == (50, N)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.full((50,), float(k)))
    if kind.sparse:
        assert ((weights > 0).sum(-1) <= k).all()
    else:
        assert ((weights > 0).sum(-1) > 1).any(), "a kind that never takes more than one adapter is sparse"
    if kind.trained_by == "draws":
        assert set(weights.unique().tolist()) <= {0.0, 1.0}, "what was drawn has weight 1, so inference gives 1, too"


@EACH
@BY_K
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_a_policy_without_any_preference_or_with_no_doubt_gives_finite_weights(
    kind: RouterKind, k: int, scale: float
) -> None:
    log_q = log_policy(scale * torch.tensor([[3.0, -1.0, 2.0, 0.0, -2.0, 1.0]]))
    torch.testing.assert_close(kind.weights(log_q, k).sum(-1), torch.tensor([float(k)]))


@EACH
def test_inference_draws_nothing(kind: RouterKind) -> None:
    torch.manual_seed(1)
    once = kind.weights(policies(), 2)
    torch.manual_seed(2)
    assert torch.equal(kind.weights(policies(), 2), once)


@EACH
@BY_K
def test_a_decision_hangs_on_its_own_policy_and_on_no_adapters_place(kind: RouterKind, k: int) -> None:
    log_q, order = policies(), torch.tensor([3, 0, 5, 1, 4, 2])
    weights = kind.weights(log_q, k)
    torch.testing.assert_close(kind.weights(log_q[:, order], k), weights[:, order])
    torch.testing.assert_close(kind.weights(log_q.view(5, 10, N), k), weights.view(5, 10, N))
    torch.testing.assert_close(kind.weights(log_q[7], k), weights[7])


@EACH
@BY_K
def test_the_likelier_adapter_has_no_smaller_weight(kind: RouterKind, k: int) -> None:
    log_q = policies()
    weights = kind.weights(log_q, k).gather(-1, log_q.argsort(-1, descending=True))
    assert (weights.diff(dim=-1) <= 1e-6).all()


@EACH
@BY_K
def test_the_gradient_is_there_where_it_trains_and_nothing_is_learned_elsewhere(kind: RouterKind, k: int) -> None:
    log_q = policies(8, dtype=torch.float64).requires_grad_()
    if kind.trained_by == "gradient" and kind.learns(k):
        assert torch.autograd.gradcheck(lambda given: kind.weights(given, k), log_q)
        loss = (kind.weights(log_q, k) * torch.arange(N)).square().sum()
        assert torch.autograd.grad(loss, log_q)[0].abs().max() > 0
    elif not kind.learns(k):
        some, others = kind.weights(log_q, k), kind.weights(log_q.flip(0), k)
        assert torch.equal(some.sort(-1).values, others.sort(-1).values), "its weights depend on the policy after all"


# -- in a router -------------------------------------------------------------------------------------------------------

TASK = torch.arange(120) % 3
X = 0.15 * torch.randn(120, 12, generator=torch.Generator().manual_seed(0)) + torch.nn.functional.one_hot(TASK, 12)
RIGHT = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1]], dtype=torch.float32)  # the adapters of each task
ROWS = torch.arange(90), torch.arange(90, 120)


def router(kind: RouterKind, **about: object) -> Router:
    return fresh(["a", "b", "c", "d"], [X], kind=kind.id, **{"k": 2, **about})


@EACH
@pytest.mark.parametrize("omega", [0.7, -1.3])
def test_a_router_gives_k_times_omega(kind: RouterKind, omega: float) -> None:
    weights = router(kind, omega=omega).route(X)
    torch.testing.assert_close(weights.sum(-1), torch.full((120,), 2 * omega))


@EACH
def test_a_router_saves_and_loads(kind: RouterKind, tmp_path: Path) -> None:
    saved = router(kind, omega=0.5)
    found = load_router(saved.save(tmp_path / "r.safetensors"))
    assert found.kind == kind.id
    assert torch.equal(found.route(X), saved.route(X))


@TRAINABLE
def test_training_finds_the_right_adapters(kind: RouterKind) -> None:
    def loss(rows: Tensor, weights: Tensor) -> Tensor:
        return (weights - RIGHT[TASK[rows]]).square().sum(-1)

    settings = Settings(samples=6, schedule=Schedule(rate=0.2, steps=100, batch=30, check_every=25, patience=1000))
    found = train(Features(X, loss), ROWS, router(kind, k=max(2, kind.least_k)), settings)
    assert found.history[-1][1].loss < 0.5 * found.history[0][1].loss


@EACH
@BY_K
def test_a_router_with_nothing_to_learn_is_refused(kind: RouterKind, k: int) -> None:
    if not kind.learns(k) and k <= 4:
        with pytest.raises(BadRecipe, match="nothing to learn"):
            train(Features(X, lambda rows, weights: weights.sum(-1)), ROWS, router(kind, k=k))


@pytest.mark.parametrize("kind", [kind for kind in kinds().values() if kind.trained_by == "draws"], ids=lambda k: k.id)
def test_what_is_drawn_in_training_is_given_as_inference_gives_it(kind: RouterKind) -> None:
    some = router(kind, omega=0.7)
    chosen = sample(some.log_policy(X), some.k, torch.Generator().manual_seed(0))
    assert set(some.given(chosen).unique().tolist()) == set(some.route(X).unique().tolist())


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(BadRecipe, match=r"no router kind 'loudest'.*remix"):
        fresh(["a", "b"], [X], kind="loudest")
    with pytest.raises(BadRecipe, match="no router kind"):
        kind_by_id("loudest")


# -- where routers are listed ------------------------------------------------------------------------------------------


def test_the_command_line_offers_the_kinds_and_all_that_can_be_judged_beside_one() -> None:
    parser = argparse.ArgumentParser()
    add_route(lambda *words, **more: parser)
    actions = {action.dest: action for action in parser._actions}
    assert tuple(actions["kind"].choices or ()) == tuple(trainable())
    listed = str(actions["beside"].help).rpartition(": ")[2].split(", ")
    assert listed == list(BASELINES)


@EACH
def test_a_kind_can_be_judged_beside_others_and_has_its_row_in_the_docs(kind: RouterKind) -> None:
    assert kind.id in BASELINES
    page = Path(__file__).parents[2] / "docs" / "reference" / "routing.md"
    row = f"| `{kind.id}` | {kind.title} |"
    assert row in page.read_text(encoding="utf-8"), "run `python -m tools.document`"


def test_listing_the_kinds_loads_no_torch() -> None:
    code = "import sys; from studio.routing.kinds import kinds; list(kinds()); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=LIMIT).returncode == 0
