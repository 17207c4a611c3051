"""One page for all tests of its handlers: it is costly to build, and a visitor of their own costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pytest

from studio.session.store import Settings
from studio.ui.shell.page import Page, build
from tests.waiting import Gate


class MakeGate(Protocol):
    """How a test asks for a gate."""

    def __call__(self, owner: type, method: str, count: int = 1) -> Gate: ...


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page that nothing warms up. Tests enter it as new visitors and change nothing that visitors share."""
    return build(Settings(tmp_path_factory.mktemp("rooms")))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeGate]:
    """Makes gates behind a method of a job (its class, its name, at which call); all are open when the test ends."""
    made: list[Gate] = []

    def behind(owner: type, method: str, count: int = 1) -> Gate:
        made.append(Gate(count))
        return made[-1].behind(monkeypatch, owner, method)

    yield behind
    for one in made:
        one.open()
