"""The rooms Learn and Scoreboard as plain functions, on the embedded skills and a visitor's own questions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest

from studio.learning.learners import learners
from studio.recipes.presets import load_preset
from studio.text.skills import items
from studio.ui.compose.learn import curves
from studio.ui.compose.learn.form import LearnForm
from studio.ui.compose.learn.job import Training
from studio.ui.compose.learn.page import LearningPanel
from studio.ui.judge import table
from studio.ui.judge.form import SweepForm
from studio.ui.judge.page import ScoringPanel, learned_in
from studio.ui.shell import task_choices
from studio.ui.shell.page import Page
from tests.contract.contract import UNSIGNED
from tests.ui.conftest import MakeGate

SUMS = "math+shout:train"
QUICK = LearnForm(
    learner="soup",
    examples=SUMS,
    count=6,
    shape="free",
    grain="module",
    init="constant",
    rate=5e-2,
    steps=3,
    batch=2,
    l1=0,
    seed=0,
    keep=2,
    by="score",
    pooled=False,
)
SWEEP = SweepForm(
    adapters=["math", "shout"],
    tasks=["math:test"],
    count=2,
    own="",
    with_current=False,
    methods=["cat"],
    weights="1; 0.5",
    scales="1",
    seeds="0",
    knob="",
    values="",
)


@pytest.fixture
def token(page: Page) -> str:
    """A visitor with the first preset, MATH and SHOUT, in the workspace."""
    session, _ = page.shared.sessions.enter(None)
    token, workspace = session.token, session.workspace
    workspace.load(load_preset("01-shouted-sums"), "preset")
    return token


def learning(page: Page) -> LearningPanel:
    return page.panel(LearningPanel)


def scoring(page: Page) -> ScoringPanel:
    return page.panel(ScoringPanel)


def whole(updates: Iterator[dict[Any, Any]]) -> dict[Any, Any]:
    """All that a handler set, the last word on each component."""
    found: dict[Any, Any] = {}
    for update in updates:
        found.update(update)
    return found


def learn(page: Page, token: str, **fields: Any) -> dict[Any, Any]:
    return whole(learning(page).on_learn(token, replace(QUICK, **fields)))


def judge(page: Page, token: str, **fields: Any) -> dict[Any, Any]:
    return whole(scoring(page).on_judge(token, replace(SWEEP, **fields)))


def test_a_soup_is_written_into_the_recipe_and_undone(page: Page, token: str) -> None:
    workspace = page.shared.workspace(token)
    before = workspace.recipe
    found = learn(page, token)
    assert "3 steps" in found[learning(page).state]
    assert found[learning(page).heat].count("<td class='more'") == 2 * 56
    assert "<svg" in found[learning(page).curve]
    assert [len(source.modules) for source in workspace.recipe.sources] == [56, 56]
    assert workspace.compose().report.rank == 16
    assert found[page.compose.mixer.weights[0]]["interactive"] is False  # every module has a weight of its own
    assert page.bar.on_undo(token)[page.compose.mixer.weights[0]]["interactive"] is True
    assert workspace.recipe == before


def test_a_run_is_stopped_and_goes_on(page: Page, token: str, gate: MakeGate) -> None:
    second = gate(Training, "_seen", 2)
    steps = learning(page).on_learn(token, replace(QUICK, steps=9))
    next(steps)
    run = learning(page).run(token)
    assert run
    with pytest.raises(gr.Error, match="Stop it first"):
        next(learning(page).on_learn(token, QUICK))
    while not second.is_reached:
        next(steps)
    learning(page).on_stop(token)
    second.open()
    end = whole(steps)
    assert end[learning(page).more]["interactive"] is True
    made = len(run.losses)
    assert 2 <= made < 9
    another = gate(Training, "_seen")
    more = learning(page).on_resume(token)
    next(more)
    later = learning(page).run(token)
    assert later is not run
    assert later
    while not another.is_reached:
        next(more)
    with pytest.raises(gr.Error, match="Stop it first"):
        next(learning(page).on_resume(token))  # it goes on already
    learning(page).on_stop(token)
    another.open()
    whole(more)
    assert made < len(later.losses) < 9
    assert later.losses[:made] == run.losses
    fresh = whole(learning(page).on_open(token, None))  # the page was loaded again
    assert "Stopped after" in fresh[learning(page).state]
    assert "<svg" in fresh[learning(page).curve]
    assert fresh[learning(page).more]["interactive"] is True
    assert learning(page).state not in whole(learning(page).on_open(token, None, True))


@pytest.mark.parametrize("id", learners())
def test_every_learner_is_offered_and_writes_the_recipe(page: Page, token: str, id: str) -> None:
    assert (learners()[id].label, id) in learning(page).learner.choices
    updates = learning(page).on_learner(id)
    assert updates[learning(page).shape]["interactive"] == ("parameterisation" in learners()[id].uses)
    said = learn(page, token, learner=id, shape=learners()[id].settings.parameterisation)[learning(page).state]
    assert learners()[id].objective in said
    assert page.shared.workspace(token).recipe.name == f"learned: {id}"


def test_adapters_exchanged_meanwhile_are_not_overwritten(page: Page, token: str, gate: MakeGate) -> None:
    workspace = page.shared.workspace(token)
    first = gate(Training, "_seen")
    steps = learning(page).on_learn(token, QUICK)
    next(steps)
    workspace.remove(1)
    left = workspace.recipe
    first.open()
    said = whole(steps)[learning(page).state]
    assert workspace.recipe == left
    assert "named versions" in said
    assert list(workspace.snapshots) == ["learned by LoRA Soups (CAT)"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"learner": "magic"}, "learner"),
        ({"examples": ""}, "No examples"),
        ({"examples": "nowhere"}, "no task"),
        ({"examples": "own:../../etc/passwd"}, "no longer here"),
        ({"steps": 10**9}, "Steps"),
        ({"steps": None}, "Steps"),
        ({"rate": float("nan")}, "rate"),
        ({"shape": "softmax", "grain": "rank"}, "rank"),
    ],
)
def test_what_cannot_be_learned_says_why(page: Page, token: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(gr.Error) as caught:
        learn(page, token, **{"examples": "math:train", **fields})
    assert said in f"{caught.value.title} {caught.value.message}"


def test_learned_rows_never_stand_alone(
    page: Page, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a visitor's own file: half is learned from, and only the rest judged, with every control beside it."""
    monkeypatch.setattr("studio.ui.judge.job.TARGET_STEPS", 3)
    own = tmp_path / "mine.jsonl"
    lines = [json.dumps({"prompt": i.prompt, "answer": i.answer}) for i in items("math+shout", "test", 9, 1)]
    own.write_text("\n".join(lines))
    value = learning(page).on_upload(token, str(own))["value"]
    learn(page, token, examples=value)
    found = judge(page, token, tasks=[value], count=50, with_current=True, methods=[], weights="")
    run = scoring(page).run(token)
    assert run
    kinds = [(row.entry.name, row.entry.kind) for row in run.rows]
    assert kinds == [
        ("base", "base"),
        ("math", "source"),
        ("shout", "source"),
        ("learned: soup", "merge"),
        ("uniform cat", "control"),
        ("sum", "control"),
        ("target LoRA", "control"),
        ("random LoRAs", "control"),
    ]
    assert run.rows[0].cells["mine"].items == 3  # of nine, six were examples
    assert "never saw" in found[scoring(page).state]
    fresh = whole(scoring(page).on_open(token, None, None))  # the page was loaded again
    assert fresh[scoring(page).table] == found[scoring(page).table]
    assert fresh[scoring(page).bar]["visible"] is True
    page.compose.mixer.on_weight(0, token, 0.3)
    assert learned_in(page.shared.session(token)) is None


def test_rows_open_as_recipes_and_files_hold_them(page: Page, token: str) -> None:
    workspace = page.shared.workspace(token)
    found = judge(page, token, tasks=["math+shout:test"])
    run = scoring(page).run(token)
    assert run
    assert [row.entry.name for row in run.rows] == ["base", "math", "shout", "cat 1,1", "cat 0.5,0.5"]
    assert set(run.rows[0].cells) == {"math+shout:test", "math:test", "shout:test"}
    assert run.rows[1].keeps["math"] == 1
    assert found[scoring(page).plot]["value"].data
    table = json.loads(Path(found[scoring(page).json]).read_text())
    assert [row["name"] for row in table] == [row.entry.name for row in run.rows]
    assert Path(found[scoring(page).csv]).read_text().startswith("row,")
    opened = dict(found[scoring(page).open]["choices"])
    scoring(page).on_row(token, opened["cat 0.5,0.5 (merge)"])
    assert workspace.recipe.weights == (0.5, 0.5)
    assert scoring(page).on_row(token, opened["cat 0.5,0.5 (merge)"]) == gr.skip()
    with pytest.raises(gr.Error, match="control"):
        scoring(page).on_row(token, 0)


def test_a_refused_merge_is_a_row(page: Page, token: str) -> None:
    judge(page, token, own="math=math:kept", methods=[UNSIGNED[0], "cat"], weights="1,-1")
    run = scoring(page).run(token)
    assert run
    refused = [row for row in run.rows if row.refused]
    assert [row.entry.recipe.method for row in refused if row.entry.recipe] == [UNSIGNED[0]]
    assert run.rows[-1].entry.recipe
    assert run.rows[-1].entry.recipe.method == "cat"
    assert set(run.rows[-1].cells) == {"math:test", "math:kept", "shout:test"}
    assert "negative" in table.table(run.rows)


def test_regmean_is_a_row_that_opens(page: Page, token: str) -> None:
    judge(page, token, methods=["regmean"])
    run = scoring(page).run(token)
    assert run
    assert run.rows[-1].entry.name == "RegMean, own data"
    merged = run.rows[-1].entry.adapter
    assert merged
    scoring(page).on_row(token, len(run.rows) - 1)
    opened = page.shared.workspace(token).compose().adapter
    name = next(iter(merged.modules))
    np.testing.assert_allclose(opened.delta(name), merged.delta(name), atol=1e-5)
    page.shared.workspace(token).load(load_preset("04-two-voices"), "preset")
    with pytest.raises(gr.Error, match="own training questions"):
        judge(page, token, adapters=["shakespeare"], tasks=["shakespeare"], methods=["regmean"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"adapters": []}, "No adapter"),
        ({"tasks": []}, "No task"),
        ({"weights": "x"}, "list of numbers"),
        ({"weights": "1,2"}, "2 weights for 1"),
        ({"weights": "1", "scales": ",".join(map(str, range(99)))}, "99 rows"),
        ({"weights": "1", "knob": "density", "values": "1"}, "density"),
    ],
)
def test_what_cannot_be_judged_says_why(page: Page, token: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(gr.Error) as caught:
        judge(page, token, **{"adapters": ["math"], **fields})
    assert said in f"{caught.value.title} {caught.value.message}"


def test_choices_follow_the_workspace(page: Page, token: str) -> None:
    workspace = page.shared.workspace(token)
    assert task_choices.fitting(workspace) == "math+shout"
    shown = whole(scoring(page).on_open(token, ["math+spanish:test"], ["lego"]))
    assert shown[scoring(page).tasks]["value"] == ["math+shout:test", "math+shout:kept"]
    assert ("k (lego)", "k") in shown[scoring(page).knob]["choices"]
    workspace.load(load_preset("02-spanish-sums"), "preset")
    shown = whole(learning(page).on_open(token, "math+shout:train"))
    assert shown[learning(page).examples]["value"] == "math+spanish:train"


def test_every_control_is_in_the_docs(page: Page) -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "learning.md").read_text(encoding="utf-8")
    told = {name.strip() for row in re.findall(r"^\| ([^|]+) \|", text, flags=re.MULTILINE) for name in row.split(",")}
    parts = [*vars(learning(page)).values(), *vars(scoring(page)).values()]
    controls = [p for p in parts if isinstance(p, gr.components.Component) and not isinstance(p, (gr.HTML, gr.State))]
    names = {str(part.label or getattr(part, "value", "")) for part in controls}
    assert len(names) > 25
    assert names - {re.sub(r" \(Trials.*", "", name) for name in told} == set()


def test_pictures_of_strange_numbers_and_names() -> None:
    evil = "<img src=x>"
    cells = np.array([[1.0, -2.0], [np.nan, 0.5]], np.float32)
    heat = curves.heat_map(["layers.0.q", f"layers.1.{evil}"], ["a", evil], cells)
    assert "<img" not in heat
    assert heat.count("class='none'") == 1
    assert heat.count("class='less'") == 1
    many = curves.heat_map([f"layers.{i}.q[{t}]" for i in range(60) for t in range(20)], ["a"], np.ones((1200, 1)))
    assert many.count("class='more'") == 800
    assert curves.loss_curve([], [], 5) == ""
