"""One server for all tests of the page, and visitors who must leave without an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.page import PATIENCE, Server, Visit

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The studio in a process of its own, warming up while the first tests run."""
    started = Server(tmp_path_factory.mktemp("server"))
    started.start()
    yield started
    started.stop()


@contextmanager
def visiting(browser: Browser, server: Server, **how: Any) -> Iterator[Visit]:
    """A visit that must end without an error in the console or the server's log, or a request beyond loopback."""
    before = len(server.tracebacks())
    visit = Visit.begin(browser, server.url, **how)
    yield visit
    errors, foreign = list(visit.errors), list(visit.foreign)  # closing cuts streams
    visit.context.close()
    assert (errors, foreign, server.tracebacks()[before:]) == ([], [], [])


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    """A first visit: the first preset is in the workspace."""
    with visiting(browser, server) as begun:
        yield begun
