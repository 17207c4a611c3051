"""Routers: what they give, how they train and resume, what is measured, and files that are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from studio.core.errors import BadRecipe, Refused
from studio.learning.fit import Schedule
from studio.routing.measures import Decided, Labels, measure
from studio.routing.router import Router, fresh, load_router
from studio.routing.train import Features, Pass, Settings, Step, decisions, evaluate, train

N, COUNT = 4, 120
TASK = torch.arange(COUNT) % 3
X = 0.15 * torch.randn(COUNT, 12, generator=torch.Generator().manual_seed(0)) + torch.nn.functional.one_hot(TASK, 12)
PAIRS = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1]], dtype=torch.float32)  # the right adapters of each task
LABELS = Labels(TASK.numpy(), ("one", "two", "three"), PAIRS[TASK].bool().numpy())
ROWS = torch.arange(90), torch.arange(90, COUNT)
QUICK = Settings(samples=6, schedule=Schedule(rate=0.2, steps=100, batch=30, check_every=25, patience=1000))


def wrong(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """A world whose loss is the squared distance from the right adapters."""
    return (weights - PAIRS[TASK[rows]]).square().sum(-1)


def start(kind: str = "remix", **about: object) -> Router:
    return fresh(["a", "b", "c", "d"], [X], k=2, kind=kind, **about)


def test_remix_finds_the_right_subsets_and_keeps_its_support() -> None:
    found = train(Features(X, wrong), ROWS, start(), QUICK, labels=LABELS)
    first, last = found.history[0][1], found.history[-1][1]
    assert last.found == 1.0
    assert first.found is not None
    assert first.found < 1.0
    assert last.entropy < first.entropy  # the policy sharpens
    assert all(m.support == m.support_low == 2.0 for _, m in found.history)  # the mixing weights do not
    assert np.allclose(last.heat, PAIRS / 2)
    assert sum(last.load) == pytest.approx(1.0)


@pytest.mark.parametrize(("kind", "taken"), [("remix", 2), ("topk", 2), ("softmax", N), ("uniform", N)])
def test_a_kind_takes_k_adapters_or_all(kind: str, taken: int) -> None:
    assert ((start(kind, omega=0.7).route(X) > 0).sum(-1) == taken).all()


def test_a_run_taken_up_again_gives_what_one_run_would_have() -> None:
    world, seen = Features(X, wrong), list[Step]()
    whole = train(world, ROWS, start(), QUICK, labels=LABELS)
    part = train(world, ROWS, start(), QUICK, labels=LABELS, on_step=seen.append, stop=lambda: len(seen) >= 40)
    assert part.state.step == 40
    rest = train(world, ROWS, start(), QUICK, labels=LABELS, resume=part)
    assert torch.equal(rest.router.weight, whole.router.weight)
    assert rest.state.losses == whole.state.losses
    assert [step for step, _ in rest.history] == [step for step, _ in whole.history]


def test_adapters_can_be_trained_with_the_router() -> None:
    """The right weight of a chosen adapter is 1 here; omega is 0.5, so a factor on all adapters must grow to 2."""
    factor = torch.ones(1)

    def loss(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return (weights * factor - PAIRS[TASK[rows]]).square().sum(-1)

    settings = replace(QUICK, schedule=replace(QUICK.schedule, rate=0.04, steps=150))
    found = train(Features(X, loss), ROWS, start(omega=0.5), settings, adapters=[factor], labels=LABELS)
    assert found.history[-1][1].found == 1.0
    assert found.tensors[0].item() == pytest.approx(2.0, abs=0.3)


def test_tokens_decide_each_for_themselves_and_padding_counts_nothing() -> None:
    tokens = torch.stack([X, X.flip(0)], 1)
    mask = torch.ones(COUNT, 2, dtype=torch.bool)
    mask[::2, 1] = False

    def loss(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return wrong(rows, weights[:, 0])

    router = start(granularity="token")
    deciding = Pass(router, torch.Generator().manual_seed(0))
    rows = torch.arange(10)
    Features(tokens, loss, mask).losses(rows, deciding)
    assert torch.equal(torch.as_tensor(deciding.decisions), mask[rows].sum(1).float())
    assert len(deciding.decided().example) == int(mask[rows].sum())
    found = train(Features(tokens, loss, mask), ROWS, router, QUICK)
    assert found.history[-1][1].loss < 0.3 * found.history[0][1].loss


def test_log_probability_trains_the_router_alone() -> None:
    x = X[:5].clone().requires_grad_()
    router = replace(start(), weight=start().weight.requires_grad_())
    deciding = Pass(router, torch.Generator().manual_seed(0))
    deciding(x)
    torch.as_tensor(deciding.log_probability).sum().backward()
    assert x.grad is None
    assert router.weight.grad is not None


def test_decisions_keep_the_examples_order() -> None:
    rows = torch.arange(COUNT).flip(0)
    losses, decided = decisions(Features(X, wrong), start(), rows)
    assert losses.tolist() == wrong(rows, torch.as_tensor(decided.weights).float()).tolist()
    assert decided.example.tolist() == list(range(COUNT))
    assert evaluate(Features(X, wrong), start(), rows, LABELS).loss == pytest.approx(float(losses.mean()))


def test_unknown_truth_is_left_out() -> None:
    log_q = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3]]))
    truth = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=bool)
    decided = Decided(np.arange(3), np.exp(log_q), log_q)
    labels = Labels(np.array([0, 1, 1]), ("x", "y", "z"), truth)
    found = measure(decided, torch.tensor([1.0, 2.0, 3.0]), labels)
    assert found.found == 0.5
    assert found.loss == 2.0
    assert found.heat[2] == (0.0, 0.0, 0.0)  # a task of which no example is here
    assert measure(decided, torch.ones(3), replace(labels, truth=None)).found is None


@pytest.mark.parametrize(
    "fields",
    [{"samples": 1}, {"entropy": -1.0}, {"ratio": 0.0}],
)
def test_settings_out_of_bounds_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(BadRecipe, match="lies between"):
        Settings(**fields)  # type: ignore[arg-type]


def test_routers_that_do_not_fit_are_refused() -> None:
    for names, about in [(["a"], {}), (["a", "a"], {}), (["a", "b"], {"k": 3}), (["a", "b"], {"omega": 0.0})]:
        with pytest.raises(BadRecipe):
            fresh(names, [X], **about)
    with pytest.raises(BadRecipe, match="do not fit together"):
        replace(start(), groups=("one", "two"))
    for nothing in (start("uniform"), replace(start("topk"), k=1)):
        with pytest.raises(BadRecipe, match="nothing to learn"):
            train(Features(X, wrong), ROWS, nothing)
    with pytest.raises(BadRecipe, match="no examples"):
        train(Features(X, wrong), (ROWS[0][:0], ROWS[1]), start())


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_router_saves_and_loads(tmp_path: Path) -> None:
    router = start(omega=0.5, granularity="token", reads="hidden", base="some/base")
    found = load_router(router.save(tmp_path / "r.safetensors"))
    assert torch.equal(found.route(X), router.route(X))
    for name in ("names", "groups", "k", "omega", "kind", "granularity", "reads", "base"):
        assert getattr(found, name) == getattr(router, name), name


def about(**changes: object) -> dict[str, str]:
    fields = {"names": ["a", "b"], "groups": ["all"], "k": 1, "omega": 1.0, "kind": "remix"}
    fields |= {"granularity": "sequence", "reads": "hidden", "base": None} | changes
    return {"format": "lora-loom-router-1", "router": json.dumps(fields)}


WHOLE = {
    "weight": np.zeros((1, 2, 3), np.float32),
    "center": np.zeros((1, 3), np.float32),
    "scale": np.ones(1, np.float32),
}
HOSTILE = [
    (WHOLE, {"format": "other"}),
    (WHOLE, {"format": "lora-loom-router-1"}),
    (WHOLE, about() | {"router": "[" * 100_000}),
    (WHOLE, about() | {"router": "[]"}),
    (WHOLE, about(k=0)),
    (WHOLE, about(k=True)),
    (WHOLE, about(k="1")),
    (WHOLE, about(omega=float("nan"))),
    (WHOLE, about(names="ab")),
    (WHOLE, about(names=["a", 1])),
    (WHOLE, about(names=["a"])),
    (WHOLE, about(names=["a", "a"])),
    (WHOLE, about(kind="evil")),
    (WHOLE, about(base=3)),
    (WHOLE, about(more=1)),
    (WHOLE | {"more": np.zeros(1, np.float32)}, about()),
    (WHOLE | {"weight": np.zeros((2, 3), np.float32)}, about()),
    (WHOLE | {"weight": np.zeros((1, 3, 3), np.float32)}, about()),
    (WHOLE | {"weight": np.full((1, 2, 3), np.nan, np.float32)}, about()),
    (WHOLE | {"scale": np.zeros(1, np.float32)}, about()),
    (WHOLE | {"center": np.zeros((1, 4), np.float32)}, about()),
    (WHOLE | {"scale": np.ones(1, np.float64)}, about()),
]


@pytest.mark.parametrize("case", range(len(HOSTILE)))
def test_hostile_files_are_refused(case: int, tmp_path: Path) -> None:
    tensors, metadata = HOSTILE[case]
    save_file(tensors, tmp_path / "r.safetensors", metadata)
    with pytest.raises(Refused, match="router"):
        load_router(tmp_path / "r.safetensors")


def test_the_harmless_twin_of_the_hostile_files_loads(tmp_path: Path) -> None:
    save_file(WHOLE, tmp_path / "r.safetensors", about())
    assert load_router(tmp_path / "r.safetensors").names == ("a", "b")


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.safetensors").write_bytes(b"\x80\x04not a router")
    for name in ("r.safetensors", "missing.safetensors"):
        with pytest.raises(Refused):
            load_router(tmp_path / name)
