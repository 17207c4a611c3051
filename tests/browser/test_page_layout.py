"""The page at every size and in both themes, by keyboard alone, and while the heavy packages are still loading."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FloatRect, expect

from tests.browser.conftest import visiting
from tests.browser.page import CONTROLS, NAME_OF, PANELS, Server, Visit

pytestmark = pytest.mark.browser

DRAWN_AND_STAGE = (".main-svg", ".stage")
SIZES = ((1280, 800), (390, 844), (360, 780))
UMAP_NEVER_COMES = """
import runpy, threading
import studio.units
studio.units.warm_up = studio.units.umap_layout = lambda *_: threading.Event().wait()
runpy.run_path("app.py", run_name="__main__")
"""


@pytest.fixture(scope="module", params=["light", "dark"])
def themed(request: pytest.FixtureRequest, browser: Browser, server: Server) -> Iterator[tuple[str, Visit]]:
    """A first visit in each theme, which no test here changes."""
    with visiting(browser, server, theme=request.param) as begun:
        begun.written()
        begun.laid_out()
        yield request.param, begun


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_nothing_overlaps_or_overflows(themed: tuple[str, Visit], width: int, height: int, tmp_path: Path) -> None:
    theme, visit = themed
    visit.page.set_viewport_size({"width": width, "height": height})
    visit.until(f"document.querySelector('#map .plot').getBoundingClientRect().right <= {width}")
    drawn, stage = (f"document.querySelector('#map {part}').getBoundingClientRect().width" for part in DRAWN_AND_STAGE)
    visit.until(f"{drawn} > 0.95 * {stage}")
    visit.page.screenshot(path=tmp_path / f"{theme}-{width}.png", full_page=True)
    visit.until(f"document.documentElement.scrollWidth <= {width}")
    if width >= 1000:  # one screen, no scrolling
        visit.until(f"document.documentElement.scrollHeight <= {height}")
    boxes = {name: visit.part(name).bounding_box() for name in PANELS}
    assert all(box is not None and box["width"] > 200 for box in boxes.values())
    assert [pair for pair in combinations(PANELS, 2) if _overlap(*(boxes[name] for name in pair))] == []  # type: ignore[arg-type]


def test_the_theme_is_dark_or_light(themed: tuple[str, Visit]) -> None:
    theme, visit = themed
    background = visit.page.evaluate("getComputedStyle(document.querySelector('#mixer')).backgroundColor")
    grid = visit.page.evaluate("document.querySelector('#map .plot').layout.xaxis.gridcolor")
    channels = [int(part) for part in background.removeprefix("rgb(").rstrip(")").split(",")]
    assert (max(channels) < 80) == (theme == "dark")
    assert grid.startswith("rgba(255") == (theme == "dark")


def test_tab_reaches_every_control_and_changes_nothing(visit: Visit) -> None:
    visit.written()
    visit.laid_out()
    visit.page.evaluate(f"window.controls = new Set(({CONTROLS})())")
    unnamed = visit.page.evaluate(f"[...controls].filter(e => !({NAME_OF})(e)).map(e => e.outerHTML.slice(0, 200))")
    count = visit.page.evaluate("controls.size")
    assert unnamed == []
    assert count > 40
    recipe = visit.page.evaluate("localStorage.getItem('lora-loom')")
    for _ in range(count + 20):  # the browser's own stops and the footer come between
        visit.page.keyboard.press("Tab")
        visit.page.evaluate("controls.delete(document.activeElement)")
    missed = "[...controls].filter(e => e.isConnected).map(e => e.outerHTML)"
    assert visit.page.evaluate(missed) == []
    expect(visit.part("undo")).to_be_disabled()
    assert visit.page.evaluate("localStorage.getItem('lora-loom')") == recipe


def test_while_umap_is_pending_the_page_works(browser: Browser, tmp_path: Path) -> None:
    server = Server(tmp_path, ("-c", UMAP_NEVER_COMES))
    server.start()
    try:
        with visiting(browser, server) as visit:
            expect(visit.part("warming")).to_contain_text("UMAP")
            expect(visit.part("map").get_by_role("status")).to_contain_text("PCA")
            visit.written()
            expect(visit.part("status")).to_contain_text("rank 16")
            visit.lasso()
            visit.until("map.picked > 0")
            visit.part("mute").click()
            visit.until("map.muted > 0")
    finally:
        server.stop()


def _overlap(one: FloatRect, other: FloatRect) -> bool:
    across = min(one["x"] + one["width"], other["x"] + other["width"]) - max(one["x"], other["x"])
    down = min(one["y"] + one["height"], other["y"] + other["height"]) - max(one["y"], other["y"])
    return across > 1 and down > 1
