"""Routing on a text base: what a decision writes is what the merge of its adapters writes, by any granularity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe, LoomError
from studio.evaluation.score import answer_logits
from studio.formats import save_adapter
from studio.learning.fit import Schedule
from studio.recipes.sources import Sources
from studio.routing.answer import answered_by, write
from studio.routing.baselines import Fixed, oracle, try_subsets
from studio.routing.items import Labelled, named_items, skill_items
from studio.routing.kinds import trainable
from studio.routing.measures import Measures
from studio.routing.peft_routers import arrow, judge_library, xlora
from studio.routing.router import BASE, Router
from studio.routing.text import Shape, TextWorld, fresh_router, judge, learn_router, split_rows, text_world
from studio.routing.train import Settings
from studio.text.bases import TextBase
from studio.text.decoding import Decoding
from studio.text.rows import Block, stack_factors, view_with_rows
from studio.text.skills import Item
from tests.text_worlds import adapter, base

ITEMS = [
    Labelled(Item(f"{a}{b}", f" {b}{a}"), a, frozenset({"a" if a < "c" else "b"})) for a in "abcd" for b in "uvwxyz"
]
ROWS = torch.arange(len(ITEMS))
QUICK = Settings(samples=2, schedule=Schedule(steps=3, batch=4, check_every=2, patience=99))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextBase, list[Adapter]]:
    folder = tmp_path_factory.mktemp("adapters")
    made = [adapter(folder / name, "llama", ["q_proj", "v_proj", "down_proj"], i) for i, name in enumerate("ab")]
    return base("llama"), [one.renamed(name) for one, name in zip(made, "ab", strict=True)]


def world_of(pieces: tuple[TextBase, list[Adapter]], **shape: object) -> TextWorld:
    return text_world(*pieces, ITEMS, Shape(**shape), frozen=True)  # type: ignore[arg-type]


def logits_of(lm: TextBase, merged: Adapter | None, world: TextWorld) -> torch.Tensor:
    blocks = [] if merged is None else [Block(0, stack_factors(lm.model, [merged]))]
    view = view_with_rows(lm.model, 1, blocks, each=len(world.table)) if blocks else lm.model
    with torch.no_grad():
        return answer_logits(view, world.table)[0]


@pytest.mark.parametrize("reads", ["embedding", "hidden", "layer"])
@pytest.mark.parametrize("granularity", ["sequence", "token"])
@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.7, 0.7, 0.0), (0.0, 0.0, 1.0)])
def test_a_decision_is_the_weighted_sum_of_its_adapters(
    pieces: tuple[TextBase, list[Adapter]], reads: str, granularity: str, weights: tuple[float, ...]
) -> None:
    lm, adapters = pieces
    world = world_of(pieces, reads=reads, granularity=granularity, with_base=True)
    with torch.no_grad():
        world.answers(ROWS, Fixed(torch.tensor(weights)))
        found = answer_logits(world.mixture.view, world.table)[0]
    recipe = recipe_for(adapters, "cat", list(weights[:2]), {})
    merged = compose(recipe, Sources(tuple(adapters))).adapter if any(weights[:2]) else None
    torch.testing.assert_close(found, logits_of(lm, merged, world), rtol=0, atol=2e-4)


def test_rows_of_one_batch_may_decide_differently(pieces: tuple[TextBase, list[Adapter]]) -> None:
    lm, adapters = pieces
    world = world_of(pieces)
    world.mixture.mixing.weights[0] = torch.eye(2)[torch.arange(len(ITEMS)) % 2][:, None]
    with torch.no_grad():
        logits = answer_logits(world.mixture.view, world.table)[0]
    owner = world.table.answer[:, 1:].nonzero()[:, 0]
    for i in range(2):
        torch.testing.assert_close(
            logits[owner % 2 == i], logits_of(lm, adapters[i], world)[owner % 2 == i], atol=1e-4, rtol=0
        )


def test_what_is_remembered_is_what_would_be_computed(pieces: tuple[TextBase, list[Adapter]]) -> None:
    world, forgetful = world_of(pieces), world_of(pieces)
    forgetful.frozen = False
    rows = torch.tensor([3, 3, 0, 7, 3])
    for _ in range(2):
        one, two = (w.answers(rows, Fixed(torch.tensor([1.0, 0.0]))) for w in (world, forgetful))
        torch.testing.assert_close(one[0], two[0].detach(), rtol=0, atol=1e-5)
        assert torch.equal(one[1], two[1])
    assert world.passes == 3
    assert forgetful.passes == 10


@pytest.mark.parametrize("kind", trainable())
@pytest.mark.parametrize(
    ("reads", "granularity"), [("hidden", "sequence"), ("hidden", "token"), ("layer", "sequence"), ("layer", "token")]
)
def test_every_shape_trains_and_answers(
    pieces: tuple[TextBase, list[Adapter]], kind: str, reads: str, granularity: str
) -> None:
    shape = Shape(k=2, kind=kind, reads=reads, granularity=granularity, with_base=True)  # type: ignore[arg-type]
    world = text_world(*pieces, ITEMS, shape)
    found = learn_router(world, shape, QUICK)
    assert found.router.groups == (("model.layers.0", "model.layers.1") if reads == "layer" else ("all",))
    assert found.router.names == ("a", "b", BASE)
    assert not torch.equal(found.state.tensors[0], fresh_router(world, shape, ROWS).weight)
    judged = judge(world, found.router)
    assert len(judged.right) == len(ITEMS)
    assert judged.measures.support == pytest.approx(2.0) if kind == "remix" else judged.measures.support <= 3
    assert isinstance(judged.measures, Measures)


def test_trained_adapters_come_back_as_adapters(pieces: tuple[TextBase, list[Adapter]], tmp_path: Path) -> None:
    lm, adapters = pieces
    world = text_world(lm, adapters, ITEMS, Shape(), frozen=False)
    same = world.mixture.trained([tensor.clone() for tensor in world.mixture.tensors])
    for one, other in zip(adapters, same, strict=True):
        for name in one.modules:
            np.testing.assert_allclose(other.delta(name), one.delta(name), atol=1e-5)
    settings = replace(QUICK, schedule=replace(QUICK.schedule, rate=0.01, steps=6, check_every=1))
    found = learn_router(world, Shape(), settings)
    made = world.mixture.trained(found.state.tensors[1:])
    assert any(not np.allclose(made[0].delta(name), adapters[0].delta(name), atol=1e-4) for name in made[0].modules)
    save_adapter(made[0], tmp_path / "out")


def test_the_oracle_tries_every_subset(pieces: tuple[TextBase, list[Adapter]]) -> None:
    world = world_of(pieces, with_base=True)
    table = try_subsets(world, 1, ROWS)
    assert [world.names[i] for (i,) in table.subsets] == ["a", "b", BASE]
    found = oracle(world, 1, ROWS, table=table)
    assert found.measures.loss == pytest.approx(table.losses.min(1).mean())
    assert found.measures.support == 1.0
    with pytest.raises(BadRecipe, match="no oracle"):
        try_subsets(replace(world, names=tuple(map(str, range(30)))), 5, ROWS)


def test_arrow_and_xlora_answer_by_the_same_base(pieces: tuple[TextBase, list[Adapter]]) -> None:
    lm, _ = pieces
    world = world_of(pieces, with_base=True)
    before = logits_of(lm, None, world)
    found = judge_library(world, arrow(world, 1), ROWS)
    assert found.measures.support == pytest.approx(1.0)
    assert found.measures.load[2] == 0  # neither knows the bare base
    library, state = xlora(world, split_rows(world), replace(QUICK.schedule, rate=0.05), total=2.0)
    assert state.step == 3
    judged = judge_library(world, library, ROWS, total=2.0)
    assert 1 <= judged.measures.support <= 2
    assert torch.equal(logits_of(lm, None, world), before)  # the shared base is as it was


def test_arrow_with_one_adapter_a_token_where_all_are_alike_is_that_adapter(
    pieces: tuple[TextBase, list[Adapter]],
) -> None:
    lm, adapters = pieces
    twins = [adapters[0], adapters[0].renamed("b")]
    world = text_world(lm, twins, ITEMS, Shape())
    found = judge_library(world, arrow(world, 1), ROWS)
    alone = world.answers(ROWS, Fixed(torch.tensor([1.0, 0.0])))
    assert found.measures.loss == pytest.approx(float(alone[0].mean()), rel=1e-4)


def test_labels_follow_the_table(pieces: tuple[TextBase, list[Adapter]]) -> None:
    world = world_of(pieces)
    assert world.labels.truth is not None
    for row, place in enumerate(world.table.rows):
        assert world.labels.tasks[world.labels.task[row]] == ITEMS[place].task
        assert world.labels.truth[row].tolist() == [name in ITEMS[place].adapters for name in world.names]


def test_skills_know_their_adapters(tmp_path: Path) -> None:
    found = skill_items(["math", "math+shout", "plain"], "test", 3, 0, k=2)
    truth = {one.task: one.adapters for one in found}
    assert truth == {"math": {"math", BASE}, "math+shout": {"math", "shout"}, "plain": {BASE}}
    assert {one.task for one in named_items("math,shout:test", 2, 0)} == {"math", "shout"}
    file = tmp_path / "own.jsonl"
    file.write_text('{"prompt": "a", "answer": "b"}\n')
    assert named_items(str(file), 5, 0)[0].adapters == frozenset()
    file.write_text('{"text": "a"}\n')
    with pytest.raises(BadRecipe, match="holds texts"):
        named_items(str(file), 5, 0)


def test_one_item_is_too_few(pieces: tuple[TextBase, list[Adapter]]) -> None:
    world = text_world(*pieces, ITEMS[:1], Shape())
    with pytest.raises(BadRecipe, match="too few"):
        split_rows(world)


def test_a_router_by_layer_refuses_what_lies_in_no_layer(
    pieces: tuple[TextBase, list[Adapter]], tmp_path: Path
) -> None:
    head = adapter(tmp_path / "head", "llama", ["embed_tokens"], 0)
    with pytest.raises(BadRecipe, match="lies in no layer"):
        text_world(pieces[0], [head, *pieces[1]], ITEMS, Shape(reads="layer"))


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["remix", "softmax"])
@pytest.mark.parametrize("reads", ["embedding", "hidden", "layer"])
@pytest.mark.parametrize("granularity", ["sequence", "token"])
def test_what_it_writes_is_what_teacher_forcing_says(
    pieces: tuple[TextBase, list[Adapter]], kind: str, reads: str, granularity: str
) -> None:
    """Greedy writing with caches, then the whole text read at once: the arg max before each token is that token."""
    lm, adapters = pieces
    shape = Shape(kind=kind, reads=reads, granularity=granularity, seed=3)  # type: ignore[arg-type]
    router = fresh_router(text_world(lm, adapters, ITEMS, shape), shape, ROWS)
    router = replace(router, weight=20 * router.weight)  # decided, and differently by token
    *_, found = write(lm, adapters, router, "ab", Decoding(max_tokens=8, every=3))
    assert found.pieces
    again = text_world(lm, adapters, [Labelled(Item("ab", found.text), "x")] * 2, shape)
    part = again.table
    again.answers(torch.tensor([0]), Inference(router))
    logits, targets = answer_logits(again.mixture.view, part.take(torch.tensor([0])))
    written = len(found.pieces)
    assert logits.argmax(-1)[:written].tolist() == targets[:written].tolist()
    assert all(sum(piece.shares) == pytest.approx(1.0) for piece in found.pieces)
    labels = found.labels()
    assert set(labels) <= {"a", "b"}
    assert len(set(labels)) == 1 or granularity == "token"


@dataclass(frozen=True)
class Inference:
    """A router's inference as a decision."""

    router: Router

    def __call__(self, x: torch.Tensor, group: int = 0, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.router.route(x, group)


def test_writing_stops_when_told(pieces: tuple[TextBase, list[Adapter]]) -> None:
    lm, adapters = pieces
    router = fresh_router(world_of(pieces), Shape(), ROWS)
    *_, found = write(lm, adapters, router, "ab", stop=lambda: True)
    assert found.pieces == ()


def test_who_answered_is_told_by_name() -> None:
    names = ("a", "b", BASE)
    assert answered_by((0.5, 0.0, 0.5), names, 2) == "a"
    assert answered_by((0.5, 0.5, 0.0), names, 2) == "a + b"
    assert answered_by((0.0, 0.0, 1.0), names, 1) == BASE


def test_routers_of_other_adapters_or_bases_are_refused(pieces: tuple[TextBase, list[Adapter]]) -> None:
    lm, adapters = pieces
    router = fresh_router(world_of(pieces), Shape(), ROWS)
    with pytest.raises(BadRecipe, match="does not fit these adapters"):
        write(lm, adapters[:1], router, "ab")
    with pytest.raises(BadRecipe, match="does not fit these adapters"):
        write(lm, adapters, replace(router, reads="pixels"), "ab")
    with pytest.raises(BadRecipe, match="does not fit this base"):
        write(lm, adapters, replace(router, groups=("model.layers.7",), reads="layer"), "ab")
    wide = replace(router, center=torch.ones(1, 9), weight=torch.ones(1, 2, 9))
    with pytest.raises(BadRecipe, match="does not fit this base"):
        write(lm, adapters, wide, "ab")
    with pytest.raises(LoomError, match="Shorten"):
        write(lm, adapters, router, "a" * 80)
