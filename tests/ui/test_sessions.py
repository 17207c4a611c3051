"""The page keeps nothing of a visitor but in their session: who is forgotten is forgotten in every room."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.core.errors import Cancelled, LoomError
from studio.learning.data import split
from studio.learning.learners import learner_by_id
from studio.learning.registry import LearnRequest
from studio.recipes.presets import load_preset
from studio.session.session import Session
from studio.session.store import Settings
from studio.text.bases import TextBase
from studio.text.skills import items
from studio.ui.compose.learn.job import LEARNING, Training
from studio.ui.compose.learn.page import LearningPanel
from studio.ui.judge.job import SCORING, Question, ScoringJob
from studio.ui.pictures.analogy.page import AnalogyPanel
from studio.ui.pictures.image.page import DRAWING, Moved
from studio.ui.route.job import ROUTER, Ready
from studio.ui.shell.page import Page, build
from tests.waiting import LIMIT


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Page]:
    """A page with room for two visitors, whose places for runs are all taken."""
    page = build(Settings(tmp_path / "rooms", capacity=2))
    places, never = page.shared.sessions.places, threading.Event()
    with places.taken(never), places.taken(never):
        yield page


def no_base() -> TextBase:
    raise AssertionError("the run began")


def visit(page: Page, session: Session) -> Iterator[Any]:
    """Have something in every room; what the room Learn shows of the run."""
    token, workspace, places = session.token, session.workspace, page.shared.sessions.places
    workspace.load(load_preset("01-shouted-sums"), "preset")
    page.panel(AnalogyPanel).room.change(token, seed=1)
    question = Question(workspace.sources(), workspace.recipe.sources, (), (), {})
    session.runs.begin(SCORING, lambda: ScoringJob(workspace, places, no_base, question))
    session.runs.put(ROUTER, Ready(None, workspace.adapters, "opened"))  # type: ignore[arg-type]
    session.runs.put(DRAWING, Moved(threading.Event(), workspace, workspace.version))
    examples = split(items("math", "train", 20, 0))
    request = LearnRequest(learner_by_id("soup"))
    shown = page.panel(LearningPanel).begin(token, lambda: Training(workspace, places, no_base, examples, request))
    next(shown)
    return shown


def test_who_is_forgotten_is_forgotten_in_every_room(full: Page) -> None:
    sessions, shown, held, judging = full.shared.sessions, [], [], []
    for _ in range(4):
        session, _ = sessions.enter(None)
        shown.append((session.token, visit(full, session)))
        works = [session.runs.get(kind) for kind in (LEARNING, SCORING, DRAWING)]
        works += [session, session.workspace, session.workspace.sources(), session.runs.get(ROUTER).adapters[0]]
        held.append([weakref.ref(one) for one in works])
        judging.append(session.runs.get(SCORING).job)
        del session, works
    assert len(sessions) == 2
    learning = full.panel(LearningPanel)
    for token, pictures in shown[:2]:
        *_, end = pictures
        assert "stopped before it began" in end[learning.state]
        with pytest.raises(LoomError, match="away too long"):
            full.shared.session(token)
    assert all(job.wait(LIMIT) for job in judging[:2])
    judging.clear()
    gc.collect()
    assert {one() is None for refs in held[:2] for one in refs} == {True}
    assert {one() is None for refs in held[2:] for one in refs} == {False}
    for token, _ in shown[2:]:
        job = sessions.get(token).runs.get(SCORING).job
        sessions.end(token)
        with pytest.raises(Cancelled):
            job.result()


def test_a_page_that_was_closed_leaves_its_session(full: Page) -> None:
    session, _ = full.shared.sessions.enter(None)
    full.shared.token.delete_callback(session.token)
    assert full.shared.sessions.get(session.token) is session  # for a while: it may have been loaded again
    full.shared.token.delete_callback("")
