"""What a request asks for: a target LoRA in the pool, edited units, choices that the command line knows."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from studio.cli import learn as cli_learn
from studio.cli.main import main
from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe
from studio.evaluation.score import score
from studio.evaluation.tasks import Task
from studio.learning.baselines import controls
from studio.learning.coefficients import Granularity, Init, Parameterisation, Settings
from studio.learning.controls import TargetSettings
from studio.learning.data import Examples
from studio.learning.fit import Schedule
from studio.learning.learners import coefficients, edited_sources, learner_by_id
from studio.learning.registry import LearnRequest, Selection
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


def test_a_target_lora_joins_the_pool_as_last_source(world: tuple[TextBase, list[Adapter], Recipe]) -> None:
    lm, sources, recipe = world
    target = TargetSettings(4, 8, QUICK)
    request = LearnRequest(learner_by_id("recycle"), Settings("leaky", schedule=QUICK), keep=1, target=target)
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


def test_what_cannot_be_asked_for_is_refused() -> None:
    with pytest.raises(BadRecipe, match="Keep is 0"):
        LearnRequest(learner_by_id("recycle"), keep=0)
    with pytest.raises(BadRecipe, match="selects no adapters"):
        LearnRequest(learner_by_id("soup"), target=TargetSettings())
    with pytest.raises(BadRecipe, match=r"no learner 'magic'.*soup"):
        learner_by_id("magic")


def test_unit_edits_are_heard_in_training(world: tuple[TextBase, list[Adapter], Recipe]) -> None:
    lm, sources, recipe = world
    module = next(iter(sources[0].modules))
    edits = {"form": "canonical", "scale": {module: {0: 0.0}}}
    fields = [source.model_dump() for source in recipe.sources]
    edited = recipe.changed(sources=[{**fields[0], "units": edits}, *fields[1:]])
    adapters = edited_sources(edited, Sources(tuple(sources)))
    assert adapters[1] is sources[1]
    found = coefficients(lm, adapters, EXAMPLES, LearnRequest(learner_by_id("soup"), Settings(schedule=QUICK)))
    merged = compose(found.into(edited), Sources(tuple(sources))).adapter
    assert loss(lm, merged) == pytest.approx(min(value for _, value in found.soup.state.valid), rel=1e-3)


def test_the_command_line_knows_every_choice() -> None:
    assert get_args(Parameterisation) == cli_learn.PARAMETERISATIONS
    assert get_args(Granularity) == cli_learn.GRANULARITIES
    assert get_args(Init) == cli_learn.INITS
    assert get_args(Selection) == cli_learn.SELECTIONS


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--learner", "lorahub", "--rate", "0.1"), "lorahub does not use --rate"),
        (("--way", "adamerge", "--l1", "1"), "adamerge does not use --l1"),
        (("--learner", "soup", "--pool-target"), "selects no adapters"),
    ],
)
def test_a_flag_that_does_nothing_is_refused_before_a_base_is_opened(
    flags: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.yaml"
    assert main(["learn", "nowhere", "--examples", "math", *flags, "-o", str(out)]) == 1
    assert said in capsys.readouterr().err.splitlines()[-1].lower()
    assert not out.exists()


def test_trials_is_another_name_of_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--examples", "math", "--count", "4", "--way", "lorahub", "--trials", "2")
    assert main(["learn", "loom:math", "loom:shout", *given, "-o", str(tmp_path / "out.yaml")]) == 0
    assert "2 steps" in capsys.readouterr().err
