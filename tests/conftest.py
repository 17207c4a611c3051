"""What every test gets: caches of its own, a Hub that is offline, fixed seeds; on request, real data and a browser."""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from playwright.sync_api import Browser, sync_playwright

from tests import chromium
from tests.waiting import LIMIT

SCRATCH = pytest.StashKey[tempfile.TemporaryDirectory[str]]()
SEED = 0

hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None)


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before any test module is imported: these libraries read it once, at import."""
    scratch = config.stash[SCRATCH] = tempfile.TemporaryDirectory(prefix="loom-tests-")
    os.environ["GRADIO_TEMP_DIR"] = str(Path(scratch.name, "gradio"))
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HOME"] = str(Path(scratch.name, "huggingface"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_ETAG_TIMEOUT"] = os.environ["HF_HUB_DOWNLOAD_TIMEOUT"] = str(int(LIMIT))  # of loopback servers
    for threads in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):  # UMAP's Numba would set PyTorch's threads to its own
        os.environ.setdefault(threads, "1")  # sums are split the same way on every machine
    hypothesis.settings.load_profile("fixed")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the session's caches."""
    config.stash[SCRATCH].cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by what a test asks for, so that `-m "not browser"` cannot miss one."""
    for item in items:
        for fixture, mark in (("chromium_path", pytest.mark.browser), ("real_data", pytest.mark.real)):
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(mark)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(SEED)
    np.random.seed(SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real adapters named by LOOM_REAL_DATA; the test is skipped when the variable is not set."""
    named = os.environ.get("LOOM_REAL_DATA")
    if not named:
        pytest.skip("LOOM_REAL_DATA names no folder of real adapters")
    assert Path(named).is_dir(), f"LOOM_REAL_DATA={named} is not a folder"
    return Path(named).resolve()


@pytest.fixture
def hub_online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub open connections in this test, for a Hub-shaped server on loopback."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """The browser to drive; without one the test fails, it is not skipped."""
    found = chromium.find()
    assert found, f"No Chromium that starts. `make test` fetches one. {chromium.ADVICE}"
    return found


@pytest.fixture(scope="module")
def browser(chromium_path: Path) -> Iterator[Browser]:
    """One headless Chromium a module and no longer: while Playwright's loop runs, `asyncio.run` fails elsewhere."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium_path, args=list(chromium.FLAGS), timeout=1000 * LIMIT
        )
        yield started
        started.close()
