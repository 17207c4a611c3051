"""One page for all tests of its handlers: it is costly to build, and a visitor of their own costs nothing."""

from __future__ import annotations

import pytest

from studio.session.store import Settings
from studio.ui.shell.page import Page, build


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page that nothing warms up. Tests enter it as new visitors and change nothing that visitors share."""
    return build(Settings(tmp_path_factory.mktemp("rooms")))
