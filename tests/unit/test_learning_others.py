"""Selection, LoraHub, AdaMerging, RegMean and the controls, each against what its definition says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter, in_memory_module
from studio.core.errors import BadRecipe
from studio.evaluation.score import score
from studio.evaluation.tasks import Task
from studio.formats import save_adapter
from studio.learning.adamerge import SETTINGS, adamerge
from studio.learning.coefficients import Settings
from studio.learning.controls import TargetSettings, random_like, target_lora
from studio.learning.data import Examples, split
from studio.learning.fit import Schedule
from studio.learning.lorahub import Search, lorahub
from studio.learning.recycle import Recycling, closeness, recycle, select
from studio.learning.regmean import input_grams, regmean
from studio.recipes.sources import Sources
from studio.text.bases import TextBase
from studio.text.skills import Item
from tests.text_worlds import adapter, base, peft_logits

ITEMS = tuple(Item(f"{a}{b}", f" {b}{a}") for a in "abcd" for b in "wxyz")
EXAMPLES = Examples(ITEMS, ITEMS)


@pytest.fixture
def world(tmp_path: Path) -> tuple[TextBase, list[Adapter]]:
    targets = [["q_proj", "up_proj"], ["q_proj", "v_proj"], ["up_proj", "down_proj"]]
    return base("llama"), [adapter(tmp_path / name, "llama", targets[i], i, 3 + i) for i, name in enumerate("abc")]


def loss(lm: TextBase, variant: Adapter | None) -> float:
    return score(lm, Task("t", ITEMS), [variant])[0].loss


@pytest.fixture
def target(world: tuple[TextBase, list[Adapter]]) -> Adapter:
    settings = TargetSettings(4, 8, Schedule(rate=1e-2, steps=60))
    return target_lora(world[0], world[1], EXAMPLES, settings)


def test_the_target_lora_learns_and_reloads_in_peft(
    world: tuple[TextBase, list[Adapter]], target: Adapter, tmp_path: Path
) -> None:
    lm, sources = world
    assert loss(lm, target) < 0.5 * loss(lm, None)
    assert set(target.modules) == {name for source in sources for name in source.modules}
    save_adapter(target, tmp_path / "target")
    ids = lm.encode("the fox")
    view = score(lm, Task("t", (Item("the fox", " a"),)), [target])[0]
    logits = peft_logits(
        tmp_path / "target", "llama", [*ids, *lm.tokenizer(" a", add_special_tokens=False)["input_ids"]]
    )
    assert torch.isfinite(logits).all()
    first = torch.nn.functional.cross_entropy(
        logits[len(ids) - 1 : -1], torch.tensor(lm.encode("the fox a")[-2:]), reduction="sum"
    )
    assert view.nats[0] > float(first) - 1e-3  # the end token's nats come on top


def test_selection_by_score_finds_the_adapter_that_was_trained_on_the_examples(
    world: tuple[TextBase, list[Adapter]], target: Adapter
) -> None:
    lm, sources = world
    pool = [*sources, target]
    assert select(lm, pool, EXAMPLES, Recycling(1))[0] == 3
    assert select(lm, pool, EXAMPLES, Recycling(1, "rank"))[0] == 2  # rank 5
    drawn = select(lm, pool, EXAMPLES, Recycling(3, "random", seed=5))
    assert drawn == select(lm, pool, EXAMPLES, Recycling(3, "random", seed=5))
    assert len(set(drawn)) == 3
    for by in ("cosine", "absolute", "clamp", "quasi_fim", "distance"):
        assert select(lm, pool, EXAMPLES, Recycling(1, by), target=target)[0] == 3
    with pytest.raises(BadRecipe, match="target"):
        select(lm, pool, EXAMPLES, Recycling(1, "cosine"))


def test_closeness_is_that_of_the_flat_deltas(world: tuple[TextBase, list[Adapter]]) -> None:
    _, (a, b, _) = world
    names = sorted({*a.modules, *b.modules})
    zero = {name: np.zeros((a.modules.get(name) or b.modules[name]).shape) for name in names}
    x, y = (np.concatenate([(o.delta(n) if n in o.modules else zero[n]).ravel() for n in names]) for o in (a, b))
    norms = np.linalg.norm(x) * np.linalg.norm(y)
    assert closeness(a, b, "cosine") == pytest.approx(x @ y / norms)
    assert closeness(a, b, "absolute") == pytest.approx(np.abs(x * y).sum() / norms)
    assert closeness(a, b, "clamp") == pytest.approx(np.maximum(x * y, 0).sum() / norms)
    assert closeness(a, b, "distance") == pytest.approx(-np.linalg.norm(x - y))
    squares = (x**2) @ (y**2) / (np.linalg.norm(x**2) * np.linalg.norm(y**2))
    assert closeness(a, b, "quasi_fim") == pytest.approx(np.sqrt(squares))


def test_recycling_starts_at_the_base_and_keeps_what_helps(
    world: tuple[TextBase, list[Adapter]], target: Adapter
) -> None:
    lm, sources = world
    settings = Settings("leaky", schedule=Schedule(steps=60))
    found = recycle(lm, sources, EXAMPLES, Recycling(2, settings=settings), target=target)
    assert found.chosen[0] == -1
    assert len(found.adapters) == 3
    assert found.soup.state.valid[0][1] == pytest.approx(loss(lm, None), rel=1e-4)
    recipe = found.soup.into(recipe_for(found.adapters, "cat", None, {}))
    merged = compose(recipe, Sources(found.adapters)).adapter
    assert loss(lm, merged) == pytest.approx(min(v for _, v in found.soup.state.valid), rel=1e-3)
    assert loss(lm, merged) < 0.8 * loss(lm, None)


def test_lorahub_subtracts(world: tuple[TextBase, list[Adapter]], target: Adapter) -> None:
    """With the target's negative alone in the pool, the best weight is negative (acceptance test 11)."""
    lm, _ = world
    modules = {n: in_memory_module(n, m.A, -m.B, m.scaling) for n, m in target.modules.items()}
    found = lorahub(lm, [replace(target, modules=modules)], EXAMPLES, Search(25))
    weight = float(found.coefficients[0, 0])
    assert -1.5 <= weight < -0.3
    again = lorahub(lm, [replace(target, modules=modules)], EXAMPLES, Search(25))
    assert float(again.coefficients[0, 0]) == weight
    assert found.state.losses[-1] > 0
    assert found.state.step == 25


def test_lorahub_stops(world: tuple[TextBase, list[Adapter]]) -> None:
    trials: list[int] = []
    found = lorahub(*world, EXAMPLES, on_step=lambda step: trials.append(step.step), stop=lambda: len(trials) == 3)
    assert found.state.step == 3


def test_adamerging_lowers_the_entropy_without_answers(world: tuple[TextBase, list[Adapter]]) -> None:
    lm, sources = world
    settings = replace(SETTINGS, schedule=Schedule(rate=2e-2, steps=20))
    found = adamerge(lm, sources, [item.prompt for item in ITEMS], settings)
    (_, first), (_, last) = found.state.valid
    assert last < first
    ids = torch.tensor([lm.encode(ITEMS[0].prompt)])
    assert 0 < last < np.log(96)
    assert ids.shape[0] == 1


def test_regmean_is_the_dense_formula_and_the_least_squares_solution(
    world: tuple[TextBase, list[Adapter]],
) -> None:
    lm, sources = world
    grams = [input_grams(lm, source, ITEMS[i::3]) for i, source in enumerate(sources)]
    merged = regmean(sources, grams, shrink=0.9)
    name = next(name for name in sources[0].modules if name.endswith("q_proj"))
    shrunk = [0.9 * g[name].numpy() + 0.1 * np.diag(np.diag(g[name].numpy())) for g in grams[:2]]
    deltas = [source.delta(name).astype(float) for source in sources[:2]]
    dense = sum(d @ g for d, g in zip(deltas, shrunk, strict=True)) @ np.linalg.inv(sum(shrunk))
    np.testing.assert_allclose(merged.delta(name), dense, atol=2e-4 * np.abs(dense).max())
    single = next(name for name in sources[1].modules if name.endswith("v_proj"))
    np.testing.assert_allclose(merged.delta(single), sources[1].delta(single), atol=1e-4)


def test_grams_leave_padding_out(world: tuple[TextBase, list[Adapter]]) -> None:
    lm, (source, *_) = world
    items = [Item("a", " b"), Item("the fox and the hen", " b")]
    together = input_grams(lm, source, items)
    apart = [input_grams(lm, source, [item]) for item in items]
    for name, gram in together.items():
        torch.testing.assert_close(gram, apart[0][name] + apart[1][name], rtol=1e-4, atol=1e-4)


def test_the_random_control_matches_the_spread_of_the_factors() -> None:
    """Acceptance test 10: std within 2 %, ranks, scalings and missing modules unchanged."""
    rng = np.random.default_rng(0)

    def made(name: str, rank: int, std: float) -> Adapter:
        a, b = rng.normal(0, std, (rank, 4000)), rng.normal(0, 3 * std, (3000, rank))
        modules = {"x": in_memory_module("x", a.astype(np.float32), b.astype(np.float32), 2.0)}
        if name == "a":
            modules["y"] = in_memory_module("y", a.astype(np.float32), b.astype(np.float32), 0.5)
        return Adapter(name, modules, "test")

    real = [made("a", 8, 0.1), made("b", 16, 0.2)]
    drawn = random_like(real, seed=3)
    for side in (0, 1):
        of = [np.concatenate([o.modules["x"].load()[side].ravel() for o in pool]) for pool in (real, drawn)]
        assert of[1].std() == pytest.approx(of[0].std(), rel=0.02)
        assert abs(np.corrcoef(of[0], of[1])[0, 1]) < 0.02
    assert [o.modules["x"].rank for o in drawn] == [8, 16]
    assert [set(o.modules) for o in drawn] == [{"x", "y"}, {"x"}]
    assert drawn[0].modules["y"].scaling == 0.5
    same = random_like(real, seed=3)
    np.testing.assert_array_equal(same[0].delta("x"), drawn[0].delta("x"))


def test_split_is_the_papers() -> None:
    items = tuple(Item(str(i), " x") for i in range(100))
    assert (len(split(items).train), len(split(items).valid)) == (80, 20)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Search(trials=0),
        lambda: Settings(l1=-1.0),
        lambda: Settings(l1=math.nan),
        lambda: Settings(start=math.inf),
    ],
)
def test_numbers_out_of_bounds_are_refused_before_anything_is_learned(wrong: Callable[[], object]) -> None:
    with pytest.raises(BadRecipe, match="lies between"):
        wrong()
