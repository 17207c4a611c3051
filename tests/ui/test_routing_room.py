"""The room Route: its handlers as plain functions, from the tasks to the coloured text, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from studio.recipes.presets import load_preset
from studio.routing.comparison import BASELINES
from studio.routing.kinds import kinds, trainable
from studio.routing.router import load_router
from studio.ui.route import markup as router_markup
from studio.ui.route.form import RouteForm
from studio.ui.route.job import Routing
from studio.ui.route.page import RoutingPanel
from studio.ui.shell import plots
from studio.ui.shell.page import Page
from tests.ui.conftest import MakeGate

TASKS = ["math", "shout", "math+shout"]
QUICK = RouteForm(
    tasks=TASKS,
    count=4,
    kind="remix",
    k=2,
    omega=1.0,
    grain="sequence",
    reads="embedding",
    with_base=True,
    samples=2,
    entropy=0.01,
    rate=0.1,
    steps=3,
    batch=2,
    seed=0,
)


@pytest.fixture(scope="module")
def token(page: Page) -> str:
    """A visitor with math and shout in the workspace."""
    session, _ = page.shared.sessions.enter(None)
    token, workspace = session.token, session.workspace
    workspace.load(load_preset("01-shouted-sums"), "preset")
    return token


@pytest.fixture(scope="module")
def room(page: Page) -> RoutingPanel:
    """The room Route."""
    return page.panel(RoutingPanel)


def last(updates: Iterator[Any]) -> Any:
    *_, found = updates
    return found


@pytest.fixture(scope="module")
def done(room: RoutingPanel, token: str) -> dict[Any, Any]:
    """The last picture of a short run."""
    return last(room.on_train(token, QUICK))


def test_opening_lists_what_the_workspace_can_be_asked(room: RoutingPanel, token: str) -> None:
    found = last(room.on_open(token, ["gone"]))
    assert [value for _, value in found[room.tasks]["choices"]] == TASKS
    assert found[room.tasks]["value"] == TASKS
    assert len(found[room.pick]["choices"]) == 3
    assert room.on_pick("math").startswith("Question:")


def test_every_kind_that_can_be_trained_is_offered_and_tells_what_its_curves_mean(room: RoutingPanel) -> None:
    assert room.kind.choices == [(kind.label, id) for id, kind in trainable().items()]
    for kind in kinds().values():
        assert kind.why in router_markup.progress([], 10, 3, kind)


def test_a_run_ends_with_figures_and_a_file_that_loads(room: RoutingPanel, done: dict[Any, Any]) -> None:
    assert "Done after 3 steps" in str(done[room.state])
    assert "Right choice" in str(done[room.figures])
    assert ">2.00<" in str(done[room.figures])  # ReMix: ESS is k
    assert "meant to fall" in str(done[room.plots])
    assert "math+shout" in str(done[room.shares])
    router = load_router(Path(done[room.download]["value"]))
    assert router.names == ("math", "shout", "(base)")


def test_the_router_writes_and_says_who_answered(room: RoutingPanel, token: str, done: dict[Any, Any]) -> None:
    found = last(room.on_write(token, "Question: What is two plus three?\nAnswer in capitals:"))
    assert found["value"]
    assert {label for _, label in found["value"]} <= set(found["color_map"])


def test_the_router_is_judged_beside_all_others(room: RoutingPanel, token: str, done: dict[Any, Any]) -> None:
    part = room.beside
    found = last(part.on_judge(token, 2))[part.judged]
    others = [one.title for one in BASELINES.values() if one.id != "remix"]
    for title in ("this router", *others):
        assert f">{title}</th>" in found
    assert "refused" not in found
    assert found.count("<tr>") == 1 + 1 + len(others)
    with pytest.raises(gr.Error, match="lies between"):
        last(part.on_judge(token, 0))


def test_another_visitor_opens_it(page: Page, room: RoutingPanel, token: str, done: dict[Any, Any]) -> None:
    session, _ = page.shared.sessions.enter(None)
    other, workspace = session.token, session.workspace
    file = str(done[room.download]["value"])
    with pytest.raises(gr.Error, match="adapters it was trained over"):
        room.on_router(other, file)
    with pytest.raises(gr.Error, match="Train one"):
        last(room.on_write(other, "x"))  # the first visitor's router is not theirs
    workspace.load(load_preset("01-shouted-sums"), "preset")
    assert "k = 2 of 3" in room.on_router(other, file)[room.state]
    assert last(room.on_write(other, "Question: Say: fox\nAnswer in capitals:"))["value"]


def test_a_stopped_run_goes_on(page: Page, room: RoutingPanel, gate: MakeGate) -> None:
    session, _ = page.shared.sessions.enter(None)
    token, workspace = session.token, session.workspace
    workspace.load(load_preset("01-shouted-sums"), "preset")
    second = gate(Routing, "_seen", 2)
    run = room.on_train(token, replace(QUICK, tasks=["math", "shout"], steps=50))
    next(run)
    with pytest.raises(gr.Error, match="Stop it first"):
        next(room.on_train(token, QUICK))
    while not second.is_reached:
        next(run)
    assert "Step" in room.run(token).status
    room.on_stop(token)
    second.open()
    stopped = last(run)
    assert "Stopped after" in stopped[room.state]
    assert stopped[room.more]["interactive"] is True
    another = gate(Routing, "_seen")
    again = room.on_resume(token)
    next(again)
    room.on_stop(token)
    another.open()
    assert "Stopped after" in last(again)[room.state]


def test_a_router_whose_end_nobody_saw_is_there_when_the_page_is_opened(page: Page, room: RoutingPanel) -> None:
    session, _ = page.shared.sessions.enter(None)
    token, workspace = session.token, session.workspace
    workspace.load(load_preset("01-shouted-sums"), "preset")
    next(room.on_train(token, QUICK))  # and the page is closed
    room.run(token).job.result()
    fresh = last(room.on_open(token, None))
    assert "Done after" in fresh[room.state]
    assert Path(fresh[room.download]["value"]).is_file()
    assert room.ready(token)


def test_an_upload_becomes_a_task_of_unknown_truth(page: Page, room: RoutingPanel, tmp_path: Path) -> None:
    session, _ = page.shared.sessions.enter(None)
    token, workspace = session.token, session.workspace
    workspace.load(load_preset("01-shouted-sums"), "preset")
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"q{i}", "answer": "a"}) + "\n" for i in range(3)))
    update = room.on_upload(token, str(file), ["math"])
    assert update["value"] == ["math", "own:mine.jsonl"]
    found = last(room.on_train(token, replace(QUICK, tasks=["own:mine.jsonl"], count=3)))
    assert "Right choice" not in found[room.figures]
    file.write_text("no json")
    with pytest.raises(gr.Error, match="Expecting value"):
        room.on_upload(token, str(file), [])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("k", 99, "k cannot be 99"), ("k", None, "k: the field is empty"), ("omega", 0.0, "omega"),
     ("kind", "uniform", "router"), ("kind", "x", "router"), ("grain", "x", "granularity"), ("reads", "x", "features"),
     ("samples", 1, "M cannot be"), ("rate", float("nan"), "rate"), ("steps", 10**9, "Steps"), ("batch", "8", "batch")],
)  # fmt: skip
def test_bad_controls_are_messages(room: RoutingPanel, token: str, field: str, value: Any, said: str) -> None:
    with pytest.raises(gr.Error) as caught:
        last(room.on_train(token, replace(QUICK, **{field: value})))
    assert said.lower() in f"{caught.value.title} {caught.value.message}".lower()


@pytest.mark.parametrize("tasks", [[], None, ["code"], ["own:none.jsonl"], [3]])
def test_tasks_that_do_not_fit_are_messages(room: RoutingPanel, token: str, tasks: Any) -> None:
    with pytest.raises(gr.Error):
        last(room.on_train(token, replace(QUICK, tasks=tasks)))


def test_there_is_nothing_to_judge_before_a_run(page: Page, room: RoutingPanel) -> None:
    other = page.shared.sessions.enter(None)[0].token
    with pytest.raises(gr.Error, match="Train one first"):
        last(room.beside.on_judge(other, 2))


def test_an_empty_workspace_has_nothing_to_choose(page: Page, room: RoutingPanel) -> None:
    token = page.shared.sessions.enter(None)[0].token
    with pytest.raises(gr.Error, match="two adapters"):
        last(room.on_train(token, QUICK))


def test_the_slider_tells_the_collapse(room: RoutingPanel) -> None:
    large, small = room.on_scale(5, 8), room.on_scale(0, 8)
    assert "99.2%" in large
    assert "67.5%" in large
    assert "nothing at this scale" in small
    with pytest.raises(gr.Error):
        room.on_scale(None, 8)


def test_plots_escape_names_and_speak() -> None:
    evil = "<img src=x onerror=alert(1)>"
    drawn = plots.lines(evil, {evil: [(0, 1.0), (5, 2.0)]}, last=5, most=2)
    drawn += plots.bars(evil, {evil: 0.5}) + plots.heat(evil, [evil], [evil], [[1.0]])
    drawn += plots.histogram(evil, [1, 2], [0.0, 1.0, 2.0])
    assert "<img" not in drawn
    assert drawn.count("role='img'") == 2
