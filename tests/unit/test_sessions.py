"""The one store of what visitors have: it lives and ends together, however many threads ask for it."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio.core import spill
from studio.core.errors import Cancelled, LoomError
from studio.recipes.recipe import Source
from studio.recipes.sources import Sources
from studio.session import workspace as workspaces
from studio.session.jobs import Job, Places, Run
from studio.session.runs import Kind, Runs
from studio.session.session import Session
from studio.session.store import Sessions, Settings
from studio.session.workspace import Workspace
from tests.fixtures import peft_folder
from tests.waiting import LIMIT


class Endless(Run):
    """A run that holds a workspace's tensors and goes on until it is stopped."""

    def __init__(self, workspace: Workspace | None = None) -> None:
        self.sources = workspace.sources() if workspace is not None else None
        self.stopped = threading.Event()
        self.job = Job(lambda on_step: self.stopped.wait(LIMIT))


ENDLESS = Kind[Endless]("endless")
VALUE = Kind[list[int]]("value")


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(tmp_path: Path, clock: Clock) -> Sessions:
    """A store of at most two sessions."""
    return Sessions(Settings(tmp_path / "root", capacity=2, lifetime=100, grace=10), clock=clock)


class Visit:
    """What a visitor leaves behind everywhere, held weakly: an adapter, a merge, units, an analogy, a run, files."""

    def __init__(self, session: Session, adapter: Path) -> None:
        workspace = session.workspace
        workspace.add(Source(path=str(adapter)))
        (workspace.folder / "upload").write_bytes(b"mine")
        (workspace.exports / "export.zip").write_bytes(b"mine")
        seen = np.ones(8)
        session.change_analogy(seen=seen)
        run = session.runs.begin(ENDLESS, partial(Endless, workspace))
        merged = workspace.compose().adapter
        self.token, self.job, self.stopped = session.token, run.job, run.stopped
        self.folders = (workspace.folder, workspace.exports)
        held = (session, workspace, run, run.sources, merged, workspace.units(), workspace.adapters[0], seen)
        self.held = [weakref.ref(one) for one in held if one is not None]

    @property
    def alive(self) -> set[bool]:
        gc.collect()
        return {one() is not None for one in self.held}


def test_what_a_visitor_has_lives_and_ends_together(
    sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[weakref.ref[Any]] = []

    def opened(**how: Any) -> Any:
        file = whole(**how)
        files.append(weakref.ref(file))
        return file

    whole = tempfile.TemporaryFile
    monkeypatch.setattr(spill.tempfile, "TemporaryFile", opened)
    monkeypatch.setattr(workspaces, "Sources", partial(Sources, budget=0))  # every merge is spilled to a file

    visits = [Visit(sessions.enter(None)[0], peft_folder(tmp_path / f"a{seed}", seed=seed)) for seed in range(4)]
    assert len(sessions) == 2
    assert len(files) == 4
    for gone in visits[:2]:
        assert gone.stopped.is_set()
        assert gone.job.wait(LIMIT)
        assert not any(folder.exists() for folder in gone.folders)
        assert gone.alive == {False}
        with pytest.raises(LoomError, match="away too long"):
            sessions.get(gone.token)
    for here in visits[2:]:
        assert not here.job.wait(0)
        assert all(folder.exists() for folder in here.folders)
        assert here.alive == {True}
        assert sessions.get(here.token).runs.get(ENDLESS) is not None
    assert [file() is not None for file in files] == [False, False, True, True]
    for here in visits[2:]:
        sessions.end(here.token)
        assert here.job.wait(LIMIT)
    assert len(sessions) == 0
    assert {file() is not None for file in files} == {False}
    assert not list(sessions.settings.root.iterdir())


def test_what_asks_a_session_that_has_ended_is_told_so(sessions: Sessions, tmp_path: Path) -> None:
    session, _ = sessions.enter(None)
    session.workspace.add(Source(path=str(peft_folder(tmp_path / "one"))))
    sessions.end(session.token)
    late = [
        lambda: session.workspace.folder,
        lambda: session.workspace.exports,
        lambda: session.workspace.adapters,
        session.workspace.compose,
        session.workspace.units,
        lambda: session.workspace.add(Source(path=str(tmp_path / "one"))),
        lambda: session.workspace.load(session.workspace.recipe, "again"),
        lambda: session.change_analogy(seed=1),
        lambda: session.runs.put(VALUE, [1]),
    ]
    for ask in late:
        with pytest.raises(Cancelled, match="has ended"):
            ask()
    assert not list(sessions.settings.root.iterdir())


def test_a_merge_and_a_reading_of_units_under_way_end_with_the_session(sessions: Sessions, tmp_path: Path) -> None:
    works = {"compose": lambda w, end: w.compose(on_step=end), "units": lambda w, end: w.units(end)}
    for name, work in works.items():
        session, _ = sessions.enter(None)
        session.workspace.add(Source(path=str(peft_folder(tmp_path / name))))
        session.workspace.edit("method", method="svd", knobs={"rank": 2})

        def end(*step: Any, token: str = session.token) -> None:
            sessions.end(token)

        with pytest.raises(Cancelled):
            work(session.workspace, end)


def test_a_session_ends_when_nobody_used_it_for_long_or_soon_after_its_last_page(
    sessions: Sessions, clock: Clock
) -> None:
    stays, leaves = (sessions.enter(None)[0].token for _ in range(2))
    sessions.enter(leaves)  # a second page
    sessions.leave(leaves)
    sessions.leave("nobody's")
    clock.now = 90
    sessions.enter(stays)
    assert sessions.get(leaves)  # one of its pages is still there
    sessions.leave(leaves)
    clock.now = 99
    assert not sessions.enter(leaves)[1]  # it was loaded again
    sessions.leave(leaves)
    clock.now = 110
    sessions.enter(stays)
    assert len(sessions) == 1
    assert sessions.enter(leaves)[1]
    clock.now = 211
    assert sessions.enter(leaves)[1] is False  # who comes back in time is not late, whoever else is
    assert len(sessions) == 1


def test_all_who_enter_at_once_with_one_token_share_one_session(sessions: Sessions) -> None:
    token = "t" * 32
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(sessions.enter, [token] * 64))
    assert len({id(session) for session, _ in found}) == 1
    assert sum(is_new for _, is_new in found) == 1


def test_who_comes_back_while_their_session_ends_gets_a_folder_that_stays(sessions: Sessions) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        def cancel(self) -> None:
            begun.set()
            go_on.wait(LIMIT)

    session, _ = sessions.enter(None)
    (session.workspace.folder / "upload").write_bytes(b"old")
    session.runs.put(Kind[Slow]("slow"), Slow())
    with ThreadPoolExecutor(2) as pool:
        ending = pool.submit(sessions.end, session.token)
        assert begun.wait(LIMIT)
        entering = pool.submit(sessions.enter, session.token)
        other, _ = sessions.enter(None)  # nobody else waits
        wait([entering], timeout=0.2)
        go_on.set()
        (again, is_new), _ = entering.result(LIMIT), ending.result(LIMIT)
    assert is_new
    assert again is not session
    assert not list(again.workspace.folder.iterdir())
    assert other.workspace.folder.exists()


def test_threads_that_enter_use_leave_and_end_sessions_leave_no_folder_behind(sessions: Sessions) -> None:
    tokens = [letter * 32 for letter in "abcd"]

    def visit(number: int) -> None:
        token = tokens[number % len(tokens)]
        session, _ = sessions.enter(token)
        try:
            sessions.get(token).change_analogy(seed=number)
            session.runs.put(VALUE, [number])
            (session.workspace.folder / f"file-{number}").write_bytes(b"")
        except (LoomError, FileNotFoundError):
            pass  # others made it end
        (sessions.leave if number % 3 else sessions.end)(token)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visit, range(200)))
    assert len(sessions) <= 2
    held = {token for token in tokens if (sessions.settings.root / token).exists()}
    assert len(held) == len(sessions)
    for token in held:
        assert sessions.get(token).workspace.folder.exists()


def test_a_second_click_begins_no_second_run() -> None:
    runs, made = Runs(), []

    def slowly() -> Endless:
        with pytest.raises(LoomError, match="already"):
            runs.begin(ENDLESS, Endless)
        made.append(Endless())
        return made[-1]

    first = runs.begin(ENDLESS, slowly)
    with pytest.raises(LoomError, match="under way"):
        runs.begin(ENDLESS, Endless)
    first.cancel()
    assert first.job.wait(LIMIT)
    second = runs.begin(ENDLESS, Endless)
    assert runs.get(ENDLESS) is second
    runs.close()
    assert second.job.wait(LIMIT)


def test_a_run_that_could_not_be_made_lets_the_next_begin() -> None:
    runs = Runs()
    with pytest.raises(ZeroDivisionError):
        runs.begin(ENDLESS, lambda: 1 // 0)  # type: ignore[return-value,arg-type]
    run = runs.begin(ENDLESS, Endless)
    run.cancel()


def test_a_run_that_was_made_while_the_session_ended_is_cancelled(sessions: Sessions) -> None:
    session, _ = sessions.enter(None)
    made: list[Endless] = []

    def late() -> Endless:
        sessions.end(session.token)
        made.append(Endless())
        return made[0]

    with pytest.raises(Cancelled, match="has ended"):
        session.runs.begin(ENDLESS, late)
    assert made[0].stopped.is_set()


def test_newer_work_cancels_the_former() -> None:
    runs, first, second = Runs(), Endless(), Endless()
    runs.put(ENDLESS, first)
    runs.put(ENDLESS, second)
    assert first.stopped.is_set()
    assert not second.stopped.is_set()
    runs.close()


def test_a_run_that_waits_for_a_place_ends_when_it_is_stopped() -> None:
    places, stopped = Places(1), threading.Event()

    def work(on_step: Any) -> None:
        with places.taken(stopped):
            raise AssertionError("there is no place")

    with places.taken(threading.Event()):
        job = Job(work)
        stopped.set()
        with pytest.raises(Cancelled, match="before it began"):
            job.result()
    with places.taken(threading.Event()):
        pass


def test_a_system_without_user_ids_has_a_folder_for_workspaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOM_WORKSPACE", raising=False)
    monkeypatch.delattr(os, "getuid")
    assert Settings.from_environment().root.name == "lora-loom"
