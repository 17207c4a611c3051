"""The scoreboard's sweep, rows, relations and files, and the verbs `learn` and `score`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from studio.cli.main import main
from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe
from studio.evaluation.score import score
from studio.evaluation.scoreboard import Board, Row, Sweep, entry_of, judge
from studio.evaluation.tasks import Task
from studio.learning.baselines import controls
from studio.learning.coefficients import Settings
from studio.learning.controls import TargetSettings
from studio.learning.data import split
from studio.learning.fit import Schedule
from studio.learning.learners import learner_by_id
from studio.learning.registry import LearnRequest
from studio.recipes.recipe import Source, load, parse
from studio.recipes.sources import Sources
from studio.text.bases import TextBase
from studio.text.skills import Item
from tests.text_worlds import adapter, base

SOURCES = (Source(path="a"), Source(path="b"))
LETTERS = Task("letters", tuple(Item(f"{a}{b}", f" {b}") for a in "abcd" for b in "wxyz"))
TEXT = Task("text", (Item("", "the fox and the hen"), Item("", "a hen")), "perplexity")


@pytest.fixture
def world(tmp_path: Path) -> tuple[TextBase, Sources, tuple[Source, ...]]:
    found = [adapter(tmp_path / name, "llama", ["q_proj", "up_proj"], i, 4) for i, name in enumerate("ab")]
    pins = tuple(Source(path=str(tmp_path / name), name=name) for name in "ab")
    return base("llama"), Sources(tuple(found)), pins


def test_a_sweep_is_every_combination_once() -> None:
    sweep = Sweep(SOURCES, ("cat", "dare"), {"density": (0.2, 0.5)}, ((1.0, 1.0), (0.5, -0.5)), (1.0, 2.0), (0, 1, 2))
    found = sweep.recipes()
    assert len(found) == 2 * 2 + 2 * 2 * 2 * 3  # cat knows neither density nor dice
    assert len({recipe.digest() for recipe in found}) == len(found)
    assert {recipe.knobs.get("density") for recipe in found if recipe.method == "dare"} == {0.2, 0.5}
    assert len({entry_of(recipe).name for recipe in found}) == len(found)


def test_a_sweep_that_cannot_be_is_refused() -> None:
    with pytest.raises(BadRecipe, match="has a knob"):
        Sweep(SOURCES, ("cat",), {"density": (0.2,)}).recipes()
    with pytest.raises(BadRecipe, match="weights"):
        Sweep(SOURCES, weights=((1.0,),)).recipes()
    with pytest.raises(BadRecipe, match="combinations"):
        Sweep(SOURCES, scales=tuple(i / 1e4 for i in range(10_001))).recipes()


def test_rows_stand_beside_base_and_sources(world: tuple[TextBase, Sources, tuple[Source, ...]]) -> None:
    lm, sources, pins = world
    entries = [entry_of(recipe) for recipe in Sweep(pins, scales=(0.5, 1.0, 2.0), weights=((1.0, 1.0),)).recipes()]
    steps: list[tuple[int, int, str]] = []
    told = judge(
        lm, sources, entries, [LETTERS, TEXT], own={"a": "text"}, pins=pins, on_step=lambda *step: steps.append(step)
    )
    rows = list(told)
    assert [row.entry.kind for row in rows] == ["base", "source", "source", "merge", "merge", "merge"]
    assert steps[-1][:2] == (6, 6)
    assert rows[0].cells["text"].over_base == (0, 0, 0)
    assert rows[1].keeps["a"] == 1
    for row in rows[1:]:
        assert row.entry.recipe is not None
        merged = compose(row.entry.recipe, None).adapter
        (again,) = score(lm, TEXT, [merged])
        assert row.cells["text"].figure.value == pytest.approx(again.figure, rel=1e-4)
        (alone,) = score(lm, TEXT, [sources.adapters[0]])
        assert row.keeps["a"] == pytest.approx(alone.figure / again.figure, rel=1e-4)
        saved = row.cells["text"].over_base.value
        assert saved == pytest.approx(score(lm, TEXT, [None])[0].loss - again.loss, rel=1e-3, abs=1e-6)


def test_judging_stops_with_what_there_is(world: tuple[TextBase, Sources, tuple[Source, ...]]) -> None:
    lm, sources, pins = world
    entries = [entry_of(recipe) for recipe in Sweep(pins, scales=tuple(i / 10 for i in range(1, 20))).recipes()]
    rows: list[Row] = []
    for row in judge(lm, sources, entries, [LETTERS], stop=lambda: len(rows) >= 3):
        rows.append(row)
    assert [row.entry.name for row in rows] == ["base", "a", "b"]
    with pytest.raises(BadRecipe, match="no source or task"):
        list(judge(lm, sources, [], [LETTERS], own={"c": "letters"}))


def test_files_carry_figures_and_recipes(world: tuple[TextBase, Sources, tuple[Source, ...]]) -> None:
    lm, sources, pins = world
    entry = entry_of(recipe_for(sources.adapters, "cat", [1, 1], {}, name="=SUM(A1)"))
    board = Board(tuple(judge(lm, sources, [entry], [LETTERS, TEXT], pins=pins)))
    rows = json.loads(board.to_json())
    assert parse(rows[3]["recipe"]) == entry.recipe
    lines = list(csv.DictReader(io.StringIO(board.to_csv())))
    assert len(lines) == 4 * 2
    assert lines[-1]["row"] == "'=SUM(A1)"  # no spreadsheet runs it
    assert float(lines[-1]["figure"]) == rows[3]["tasks"]["text"]["figure"][0]
    assert parse(json.loads(lines[-1]["recipe"])) == entry.recipe


def test_the_controls_are_all_there(world: tuple[TextBase, Sources, tuple[Source, ...]]) -> None:
    lm, sources, _ = world
    recipe = recipe_for(sources.adapters, "cat", None, {})
    quick = Schedule(steps=10, rate=1e-2)
    said: list[str] = []
    found = list(
        controls(
            lm,
            recipe,
            sources,
            split(LETTERS.items),
            LearnRequest(learner_by_id("soup"), Settings(schedule=quick)),
            target=TargetSettings(schedule=quick),
            on_part=said.append,
        )
    )
    assert [entry.name for entry in found] == ["uniform cat", "sum", "target LoRA", "random LoRAs"]
    assert said == ["target LoRA", "random LoRAs"]
    assert found[0].recipe is not None
    assert found[0].recipe.weights == (0.5, 0.5)
    rows = list(judge(lm, sources, found, [LETTERS]))
    assert all(isinstance(entry.adapter, Adapter) for entry in found[2:])
    assert len(rows) == 3 + 4
    assert rows[-2].cells["letters"].figure.value >= 0


def test_the_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the embedded base: learn a recipe from a person's own examples, then score what it wrote."""
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"prompt": "Question: What is two plus two?\\nAnswer in capitals:", "answer": "FOUR"}\n')
    out = tmp_path / "soup.yaml"
    arguments = ["learn", "loom:math", "loom:shout", "--examples", str(mine), "-o", str(out), "--steps", "2"]
    assert main([*arguments, "--batch", "1"]) == 0
    recipe = load(out)
    assert len(recipe.sources[0].modules) == 56
    assert recipe.sources[0].sha256
    table = tmp_path / "t.csv"
    scored = ["score", str(out), "--task", "math+shout", "--n", "2", "--json", "--csv", str(table)]
    assert main([*scored, "--own", "math=math+shout"]) == 0
    rows = json.loads(capsys.readouterr().out.strip())
    assert [row["kind"] for row in rows] == ["base", "source", "source", "merge"]
    assert len(table.read_text().splitlines()) == 5
    assert main(["learn", "loom:math", "--examples", "nowhere", "-o", str(out)]) == 1
    assert "neither a skill nor a file" in capsys.readouterr().err
    out.unlink()
    assert main([*arguments, "--test", str(mine)]) == 1  # told before anything is learned
    assert "not learned from" in capsys.readouterr().err
    assert not out.exists()
