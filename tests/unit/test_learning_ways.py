"""Every way to learn behind one call: what is written into the recipe is what was trained, whatever was selected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from studio.cli import learn as cli_learn
from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe
from studio.evaluation.score import score
from studio.evaluation.tasks import Task
from studio.learning.baselines import controls
from studio.learning.controls import TargetSettings
from studio.learning.data import Examples
from studio.learning.fit import Schedule
from studio.learning.learners import WAYS, LearnRequest, Way, coefficients, edited_sources, resumed
from studio.learning.recycle import Selection
from studio.learning.soups import Granularity, Init, Parameterisation, Settings
from studio.recipes.recipe import Recipe
from studio.recipes.sources import Sources
from studio.text.bases import TextBase
from studio.text.skills import Item
from tests.text_worlds import adapter, base

ITEMS = tuple(Item(f"{a}{b}", f" {b}{a}") for a in "abcd" for b in "wxyz")
EXAMPLES = Examples(ITEMS, ITEMS)
QUICK = Schedule(rate=5e-2, steps=12)


@pytest.fixture
def world(tmp_path: Path) -> tuple[TextBase, list[Adapter], Recipe]:
    targets = [["q_proj", "up_proj"], ["q_proj", "v_proj"], ["up_proj", "down_proj"]]
    sources = [adapter(tmp_path / name, "llama", targets[i], i, 3 + i) for i, name in enumerate("abc")]
    return base("llama"), sources, recipe_for(sources, "ties", [1, 1, 1], {})


def loss(lm: TextBase, variant: Adapter | None) -> float:
    return score(lm, Task("t", ITEMS), [variant])[0].loss


@pytest.mark.parametrize("way", get_args(Way))
def test_the_recipe_gives_what_was_learned(way: Way, world: tuple[TextBase, list[Adapter], Recipe]) -> None:
    lm, sources, recipe = world
    request = LearnRequest(
        way, Settings(schedule=QUICK), keep=2, trials=12, unlabelled=Settings(start=0.3, schedule=QUICK)
    )
    steps: list[int] = []
    found = coefficients(lm, sources, EXAMPLES, request, on_step=lambda step: steps.append(step.step))
    assert steps == list(range(1, 13))
    made = found.into(recipe)
    assert (made.method, len(made.sources)) == ("cat", 3)
    assert sorted(found.places) == ([0, 1, 2] if way != "recycle" else sorted(found.places[:2]))
    alone = compose(found.soup.into(recipe_for(found.adapters, "cat", None, {})), Sources(found.adapters)).adapter
    whole = compose(made, Sources(tuple(sources))).adapter
    assert loss(lm, whole) == pytest.approx(loss(lm, alone), rel=1e-5)


def test_a_target_lora_joins_the_pool_as_last_source(world: tuple[TextBase, list[Adapter], Recipe]) -> None:
    lm, sources, recipe = world
    target = TargetSettings(4, 8, QUICK)
    request = LearnRequest("recycle", Settings("leaky", schedule=QUICK), keep=1, target=target)
    found = coefficients(lm, sources, EXAMPLES, request)
    assert found.places[0] == -1
    joined = recipe.changed(sources=[*recipe.model_dump()["sources"], {"path": "target", "name": "target"}])
    made, pool = found.into(joined), Sources((*sources, found.adapters[0]))
    assert len({source.weight for source in made.sources} - {0.0}) == 2
    lowest = min(value for _, value in found.soup.state.valid)
    assert loss(lm, compose(made, pool).adapter) == pytest.approx(lowest, rel=1e-3)
    beside = {entry.name: entry for entry in controls(lm, joined, pool, EXAMPLES, request, target=target)}
    assert beside["target LoRA"].adapter is found.adapters[0]
    uniform = beside["uniform cat"].recipe
    assert uniform
    assert uniform.weights == (1 / 3, 1 / 3, 1 / 3, 0)


@pytest.mark.parametrize("way", ["soup", "adamerge"])
def test_a_stopped_run_goes_on_as_if_it_had_not(way: Way, world: tuple[TextBase, list[Adapter], Recipe]) -> None:
    lm, sources, _ = world
    request = LearnRequest(way, Settings(schedule=QUICK), unlabelled=Settings(start=0.3, schedule=QUICK))
    steps: list[int] = []
    half = coefficients(
        lm, sources, EXAMPLES, request, on_step=lambda step: steps.append(step.step), stop=lambda: len(steps) == 5
    )
    rest = resumed(lm, half.places, half.adapters, EXAMPLES, request, half.soup.state)
    whole = coefficients(lm, sources, EXAMPLES, request)
    assert (half.soup.state.step, rest.soup.state.step) == (5, 12)
    assert rest.soup.state.losses == pytest.approx(whole.soup.state.losses, rel=1e-5)
    with pytest.raises(BadRecipe, match="taken up"):
        resumed(lm, half.places, half.adapters, EXAMPLES, replace(request, way="lorahub"), half.soup.state)


def test_unit_edits_are_heard_in_training(world: tuple[TextBase, list[Adapter], Recipe]) -> None:
    lm, sources, recipe = world
    module = next(iter(sources[0].modules))
    edits = {"form": "canonical", "scale": {module: {0: 0.0}}}
    fields = [source.model_dump() for source in recipe.sources]
    edited = recipe.changed(sources=[{**fields[0], "units": edits}, *fields[1:]])
    adapters = edited_sources(edited, Sources(tuple(sources)))
    assert adapters[1] is sources[1]
    found = coefficients(lm, adapters, EXAMPLES, LearnRequest(settings=Settings(schedule=QUICK)))
    merged = compose(found.into(edited), Sources(tuple(sources))).adapter
    assert loss(lm, merged) == pytest.approx(min(value for _, value in found.soup.state.valid), rel=1e-3)


def test_the_command_line_knows_every_choice() -> None:
    assert tuple(WAYS) == cli_learn.WAYS == get_args(Way)
    assert get_args(Parameterisation) == cli_learn.PARAMETERISATIONS
    assert get_args(Granularity) == cli_learn.GRANULARITIES
    assert get_args(Init) == cli_learn.INITS
    assert get_args(Selection) == cli_learn.SELECTIONS
