"""Every learner keeps what its record promises: it writes what it trained, and resumes what was stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from studio.cli.learn import add_verbs
from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe
from studio.evaluation.score import score
from studio.evaluation.tasks import Task
from studio.learning import LEARNERS
from studio.learning.coefficients import Soup
from studio.learning.data import Examples
from studio.learning.learners import Learned, coefficients, learners, resumed
from studio.learning.registry import Learner, LearnRequest
from studio.recipes.recipe import Recipe
from studio.recipes.sources import Sources
from studio.text.bases import TextBase
from studio.text.skills import Item
from tests.contract.contract import factors
from tests.contract.registry import unlisted
from tests.text_worlds import adapter, base

EACH = pytest.mark.parametrize("learner", learners().values(), ids=learners())
ITEMS = tuple(Item(f"{a}{b}", f" {b}{a}") for a in "abcd" for b in "wxyz")
EXAMPLES = Examples(ITEMS, ITEMS)
STEPS = 12
World = tuple[TextBase, tuple[Adapter, ...], Recipe]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A tiny base, three random adapters that disagree about modules and ranks, and a recipe of them."""
    folder = tmp_path_factory.mktemp("adapters")
    targets = [["q_proj", "up_proj"], ["q_proj", "v_proj"], ["up_proj", "down_proj"]]
    sources = tuple(adapter(folder / name, "llama", targets[i], i, 3 + i) for i, name in enumerate("abc"))
    return base("llama"), sources, recipe_for(sources, "ties", [1, 1, 1], {})


def request(learner: Learner) -> LearnRequest:
    """A short run by the learner's own settings; two adapters where it selects."""
    return LearnRequest(learner, learner.adjusted(rate=5e-2, steps=STEPS, batch=8), keep=2)


def run(world: World, learner: Learner, until: int = STEPS) -> tuple[Learned, list[int]]:
    """What was learned, stopped after so many steps, and the steps that were told."""
    steps: list[int] = []
    found = coefficients(
        world[0],
        world[1],
        EXAMPLES,
        request(learner),
        on_step=lambda step: steps.append(step.step),
        stop=lambda: len(steps) == until,
    )
    return found, steps


def values(soup: Soup) -> torch.Tensor:
    return torch.cat([torch.from_numpy(units) for units in soup.units.values()])


def test_every_learner_that_is_declared_is_listed_under_its_files_name() -> None:
    assert unlisted("studio.learning", Learner, learners()) == []
    assert tuple(learners()) == LEARNERS


@EACH
def test_a_learner_says_what_it_is(learner: Learner) -> None:
    assert learner.id == learner.id.lower()
    assert learner.title
    assert learner.source
    assert learner.objective
    assert learner.summary.endswith(".")
    assert learner.step.islower()
    assert set(learner.uses) >= {"steps", "seed"}, "whatever learns can be shortened and seeded"


@EACH
def test_the_recipe_gives_what_was_learned(learner: Learner, world: World) -> None:
    """The merge of the whole recipe has the loss of the mixture that was trained, sources of no weight included."""
    lm, sources, recipe = world
    found, steps = run(world, learner)
    assert steps == list(range(1, STEPS + 1))
    made = found.into(recipe)
    assert (made.method, len(made.sources)) == ("cat", 3)
    assert len(set(found.places)) == (3 if learner.select is None else 2)
    assert [found.adapters[i].name for i in range(len(found.places))] == [sources[i].name for i in found.places]
    alone = compose(found.soup.into(recipe_for(found.adapters, "cat", None, {})), Sources(found.adapters)).adapter
    whole = compose(made, Sources(sources)).adapter
    losses = [score(lm, Task("t", ITEMS), [variant])[0].loss for variant in (whole, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@EACH
def test_it_never_touches_base_or_sources(learner: Learner, world: World) -> None:
    lm, sources, _ = world
    before = [tensor.clone() for tensor in lm.model.parameters()], [factors(source) for source in sources]
    run(world, learner)
    assert all(torch.equal(old, new) for old, new in zip(before[0], lm.model.parameters(), strict=True))
    assert all(tensor.grad is None and not tensor.requires_grad for tensor in lm.model.parameters())
    assert [factors(source) for source in sources] == before[1]


@EACH
def test_the_same_seed_learns_the_same(learner: Learner, world: World) -> None:
    one, two = (run(world, learner)[0] for _ in range(2))
    assert one.places == two.places
    assert torch.equal(values(one.soup), values(two.soup))


@EACH
def test_what_is_kept_is_no_worse_than_the_start(learner: Learner, world: World) -> None:
    state = run(world, learner)[0].soup.state
    assert state.lowest <= state.valid[0][1]
    assert len(state.losses) == STEPS


@EACH
def test_a_stopped_run_goes_on_as_if_it_had_not_been_or_says_that_it_cannot(learner: Learner, world: World) -> None:
    half, _ = run(world, learner, until=5)
    given = world[0], half.places, half.adapters, EXAMPLES, request(learner), half.soup.state
    assert half.soup.state.step == 5
    if not learner.resumes:
        with pytest.raises(BadRecipe, match="resumed"):
            resumed(*given)
        return
    rest, whole = resumed(*given).soup, run(world, learner)[0].soup
    assert rest.state.step == STEPS
    assert rest.state.losses == pytest.approx(whole.state.losses, rel=1e-5)
    torch.testing.assert_close(values(rest), values(whole))


@EACH
def test_what_it_does_not_use_changes_nothing(learner: Learner) -> None:
    other = {"parameterisation": "squared", "granularity": "layer", "init": "equal", "start": 0.7, "l1": 0.5}
    other |= {"rate": 0.25, "steps": 3, "batch": 2, "seed": 9}
    for name, value in other.items():
        assert (learner.adjusted(**{name: value}) != learner.settings) == (name in learner.uses), name
    assert learner.adjusted(**dict.fromkeys(other)) == learner.settings


# -- where learners are listed -----------------------------------------------------------------------------------------


def test_the_command_line_offers_the_learners_under_both_names() -> None:
    verbs = argparse.ArgumentParser().add_subparsers()
    add_verbs(verbs.add_parser)
    actions = {action.dest: action for action in verbs.choices["learn"]._actions}
    assert tuple(actions["learner"].choices or ()) == tuple(learners())
    assert list(actions["learner"].option_strings) == ["--learner", "--way"]


@EACH
def test_a_learner_has_its_row_in_the_docs(learner: Learner) -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "learning.md"
    row = f"| `{learner.id}` | {learner.label} |"
    assert row in page.read_text(encoding="utf-8"), "run `python -m tools.document`"
