"""The map alone in a page: drawing, picking, channels, themes, keyboard, a path prefix, the network cut."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import gradio as gr
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect

from studio.core.adapter import Adapter, in_memory_module
from studio.ui.compose.map import COLOURS, centroid_payload, map_payload, muted_payload, picked_ids, unit_map
from studio.units import cluster_units, nearest, pca, place, units_of
from tests.browser.page import PATIENCE
from tests.waiting import LIMIT, wait_until

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=window.pwned=1>"
DRAWN = "window.__loomMap && window.__loomMap.points > 0"


def some_adapters(rank: int = 8) -> list[Adapter]:
    draw = np.random.default_rng(0)
    names = [f"model.layers.{layer}.{kind}_proj" for layer in range(4) for kind in ("q", "up", "down")]
    return [
        Adapter(
            source,
            {
                name: in_memory_module(
                    name,
                    draw.standard_normal((rank, 32)).astype(np.float32),
                    draw.standard_normal((24, rank)).astype(np.float32),
                )
                for name in names
            },
            "test",
        )
        for source in ("math", HOSTILE, "spanish")
    ]


@dataclass
class App:
    """A page with the map, a k slider, a colour choice and buttons for the other channels."""

    picks: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    cleared: int = 0
    sent: int = 0

    def __post_init__(self) -> None:
        self.units = units_of(some_adapters())
        self.count = len(self.units.table)
        self.positions = pca(self.units.features)

    def payload(self, positions: np.ndarray) -> dict:
        return map_payload(self.units.table, positions, nearest(self.units.grams, self.count), frame="one")

    def on_pick(self, event: gr.EventData) -> str:
        self.picks.append((event.how, picked_ids(event, self.count)))
        return f"{event.how} {len(self.picks[-1][1])}"

    def on_clear(self) -> str:
        self.cleared += 1
        return "cleared"

    def on_k(self, k: int) -> dict:
        labels = cluster_units(self.units.grams, self.count, k).numpy()
        group = self.units.table.module.astype(np.int64) * k + labels
        update = gr.update(centroids=centroid_payload(place(group, self.positions), labels))
        self.sent = len(json.dumps(update))
        return update

    def on_move(self) -> tuple[dict, dict]:
        return gr.update(value=self.payload(self.positions @ np.array([[0, 1], [-1, 0]])), note="UMAP")

    def on_mute(self) -> dict:
        return gr.update(muted=muted_payload(self.units.table.adapter == 1))

    def build(self) -> gr.Blocks:
        with gr.Blocks() as page:
            chart = unit_map(self.payload(self.positions), elem_id="map", note="warming up UMAP…", height=420)
            k = gr.Slider(1, 16, 4, step=1, label="k", elem_id="k")
            colour = gr.Dropdown(COLOURS, value="source", label="Colour", elem_id="colour")
            said = gr.Textbox(label="said", elem_id="said")
            move, mute, none = gr.Button("move"), gr.Button("mute"), gr.Button("none")
            chart.pick(self.on_pick, None, said, show_progress="hidden")
            chart.clear(self.on_clear, None, said, show_progress="hidden")
            k.input(self.on_k, k, chart, trigger_mode="always_last", show_progress="hidden")
            colour.input(lambda c: gr.update(colour=c), colour, chart, show_progress="hidden")
            move.click(self.on_move, None, chart, show_progress="hidden")
            mute.click(self.on_mute, None, chart, show_progress="hidden")
            none.click(lambda: gr.update(value=None), None, chart, show_progress="hidden")
        return page


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[App, str]]:
    app = App()
    page = app.build()
    _, url, _ = page.launch(
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        run_history=False,
        _frontend=False,  # no look of Gradio's at the page, which gives up after three seconds
    )
    yield app, url
    page.close()


@pytest.fixture
def opened(browser: Browser, served: tuple[App, str]) -> Iterator[tuple[App, Page]]:
    app, url = served
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    page = context.new_page()
    errors: list[str] = []
    foreign: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("request", lambda r: foreign.append(r.url) if not r.url.startswith((url, "data:", "blob:")) else None)
    page.goto(url, wait_until="domcontentloaded")
    wait(page, DRAWN)
    yield app, page
    assert not errors
    assert not foreign
    assert page.evaluate("window.pwned") is None
    context.close()


def wait(page: Page, condition: str) -> None:
    page.wait_for_function(condition, timeout=PATIENCE)


def any_two_clicks_are_a_double_click(page: Page) -> None:
    """Plotly allows half a second between them, which a busy machine exceeds."""
    page.evaluate("""() => {
        const plot = document.querySelector('#map .plot');
        plot._context.doubleClickDelay = 1e6;
        return Plotly.redraw(plot);
    }""")


def where(page: Page, unit: int) -> tuple[float, float]:
    left, top = page.evaluate(f"window.__loomMap.where({unit})")
    return left, top


def lasso(page: Page, margin: float = 40) -> None:
    box = page.locator("#map .stage").bounding_box()
    left, top = box["x"] + margin, box["y"] + margin
    right, bottom = box["x"] + box["width"] - margin, box["y"] + box["height"] - margin
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom), (left, top)):
        page.mouse.move(x, y, steps=6)
    page.mouse.up()


def corner(app: App) -> int:
    """The unit farthest from the middle: nothing lies above it."""
    return int(np.linalg.norm(app.positions, axis=1).argmax())


def test_draws_all_points_and_says_what_is_going_on(opened) -> None:
    app, page = opened
    assert page.evaluate("window.__loomMap.points") == app.count
    expect(page.locator("#map .note")).to_have_text("warming up UMAP…")
    expect(page.locator("#map .legend .key")).to_have_text(["math", HOSTILE, "spanish"])


def test_click_and_hover(opened) -> None:
    app, page = opened
    unit = corner(app)
    page.mouse.move(*where(page, unit))
    tip = page.locator("#map .tip")
    expect(tip).to_contain_text(app.units.table.adapters[app.units.table.adapter[unit]])
    expect(tip).to_contain_text("cosine")
    page.mouse.click(*where(page, unit))
    expect(page.locator("#said textarea")).to_have_value("click 1")
    assert app.picks[-1] == ("click", (unit,))


def test_lasso_then_clear(opened) -> None:
    app, page = opened
    before = app.cleared
    lasso(page)
    expect(page.locator("#said textarea")).to_have_value(re.compile(r"lasso \d+"))
    how, ids = app.picks[-1]
    assert how == "lasso"
    assert len(ids) > app.count / 2
    wait(page, f"window.__loomMap.picked === {len(ids)}")
    lasso(page, margin=130)  # begins inside the first one
    wait(page, f"window.__loomMap.picked < {len(ids)}")
    wait(page, "window.__loomMap.picked > 0")
    page.locator("#map .clear").click()
    expect(page.locator("#said textarea")).to_have_value("cleared")
    assert app.cleared == before + 1
    wait(page, "window.__loomMap.picked === 0")


def test_box_and_double_click(opened) -> None:
    app, page = opened
    before = app.cleared
    page.locator("#map .stage").hover()
    page.locator('#map .modebar-btn[data-title="Box Select"]').click()
    any_two_clicks_are_a_double_click(page)
    box = page.locator("#map .stage").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 60, box["y"] + box["height"] - 60, steps=8)
    page.mouse.up()
    expect(page.locator("#said textarea")).to_have_value(re.compile(r"box \d+"))
    assert len(app.picks[-1][1]) > app.count / 2
    page.evaluate("document.querySelector('#map .plot')._mouseDownTime = 0")  # the button of the box was no click
    page.mouse.dblclick(box["x"] + 20, box["y"] + box["height"] - 20)
    expect(page.locator("#said textarea")).to_have_value("cleared")
    assert app.cleared == before + 1


def test_k_moves_centroids_without_sending_the_points(opened) -> None:
    app, page = opened
    version = page.evaluate("window.__loomMap.version")
    page.locator("#k input[type=number]").fill("5")
    wait(page, "window.__loomMap.centroids === 60")
    page.locator("#k input[type=number]").fill("7")
    wait(page, "window.__loomMap.centroids === 84")
    assert page.evaluate("window.__loomMap.version") == version
    assert page.evaluate("window.__loomMap.points") == app.count
    assert app.sent < len(json.dumps(app.payload(app.positions))) / 4


def choose(page: Page, name: str) -> None:
    page.locator("#colour input").click()
    page.get_by_role("option", name=name).click()


def test_colours(opened) -> None:
    _, page = opened
    keys = page.locator("#map .legend .key")
    choose(page, "Layer")
    expect(keys).to_have_text(["layers.0", "layers.3"])
    choose(page, "Module type")
    expect(keys).to_have_text(["down_proj", "q_proj", "up_proj"])
    page.locator("#k input[type=number]").fill("3")
    wait(page, "window.__loomMap.centroids === 36")
    choose(page, "Cluster")
    expect(keys).to_have_text(["cluster 1", "cluster 2", "cluster 3"])


def test_a_new_picture_keeps_the_zoom_and_muted_units_stay(opened) -> None:
    app, page = opened
    page.get_by_role("button", name="mute").click()
    wait(page, f"window.__loomMap.muted === {app.count // 3}")
    page.locator("#map .stage").hover()
    page.mouse.wheel(0, -600)
    wait(page, "document.querySelector('#map .plot').layout.xaxis.autorange === false")
    zoom = "document.querySelector('#map .plot').layout.xaxis.range"
    first, version = page.evaluate(zoom), page.evaluate("window.__loomMap.version")
    page.get_by_role("button", name="move").click()
    wait(page, f"window.__loomMap.version !== '{version}'")
    assert page.evaluate(zoom) == pytest.approx(first, rel=1e-3)
    assert page.evaluate("window.__loomMap.muted") == app.count // 3
    expect(page.locator("#map .note")).to_have_text("UMAP")


def test_keyboard(opened) -> None:
    _, page = opened
    page.locator("#map .stage").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#map .say")).to_contain_text("energy")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#said textarea")).to_have_value("key 1")
    page.keyboard.press("Escape")
    expect(page.locator("#said textarea")).to_have_value("cleared")


def test_empty_state(opened) -> None:
    _, page = opened
    page.get_by_role("button", name="none").click()
    wait(page, "window.__loomMap.points === 0")
    expect(page.locator("#map .empty")).to_have_text("Units appear here: add an adapter, or wait while they are read.")
    page.get_by_role("button", name="move").click()
    wait(page, "window.__loomMap.points > 0")
    expect(page.locator("#map .empty")).to_have_text("")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 360])
def test_themes_and_widths(browser, served, theme: str, width: int, tmp_path) -> None:
    _, url = served
    context = browser.new_context(viewport={"width": width, "height": 760})
    page = context.new_page()
    page.goto(f"{url}?__theme={theme}", wait_until="domcontentloaded")
    wait(page, DRAWN)
    grid = page.evaluate("document.querySelector('#map .plot').layout.xaxis.gridcolor")
    assert grid.startswith("rgba(255" if theme == "dark" else "rgba(0")
    wait(page, f"document.documentElement.scrollWidth <= {width}")
    page.screenshot(path=tmp_path / f"{theme}-{width}.png")
    context.close()


def test_under_a_path_prefix(browser) -> None:
    app = App()
    api = gr.mount_gradio_app(FastAPI(), app.build(), path="/inner", ssr_mode=False)
    config = uvicorn.Config(api, port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/inner/", wait_until="domcontentloaded")
        wait(page, DRAWN)
        context.close()
    finally:
        server.should_exit = True
        thread.join(LIMIT)
