"""The map in headless Chromium with software WebGL: 5,000 and 50,000 units. `python bench/map.py`

Prints and writes to bench/results/map.json: payload sizes, milliseconds to the first picture, from a change of the
centroids in Python to the page, from a new layout to the page, and from the end of a lasso to Python and back.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from playwright.sync_api import Page, sync_playwright

from studio.ui.compose.map import centroid_payload, map_payload, picked_ids, unit_map
from studio.units import UnitTable, place
from studio.units.gram import Nearest
from studio.units.pool import Place

RESULTS = Path(__file__).parent / "results" / "map.json"
ARGUMENTS = ["--no-sandbox", "--use-gl=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
MODULES, ADAPTERS = 56, 10


def synthetic(count: int) -> tuple[UnitTable, np.ndarray, Nearest]:
    """A table of random units, their places, and neighbours."""
    draw = np.random.default_rng(0)
    row = np.arange(count, dtype=np.int32)
    energy = draw.random(count, np.float32) / count
    places = tuple(Place(f"model.layers.{i // 7}.m{i % 7}", 256, 256) for i in range(MODULES))
    names = tuple(f"adapter {i}" for i in range(ADAPTERS))
    rank = row // (MODULES * ADAPTERS)
    table = UnitTable(names, places, "canonical", row % ADAPTERS, row % MODULES, rank, energy, energy, energy)
    near = Nearest(torch.from_numpy(np.roll(row, 1)).long(), torch.zeros(count, dtype=torch.float64))
    return table, draw.standard_normal((count, 2)).astype(np.float32), near


class App:
    """The map with a number that makes 56 k centroids, a button that turns the picture, and a field for picks."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.table, self.positions, near = synthetic(count)
        self.points = map_payload(self.table, self.positions, near, frame="one")
        self.turned = map_payload(self.table, self.positions[:, ::-1], near, frame="one")
        self.sizes = {"points_bytes": len(json.dumps(self.points))}

    def on_k(self, k: float) -> dict[str, Any]:
        """Random labels, so that only the map is measured."""
        labels = np.random.default_rng(int(k)).integers(0, int(k), self.count)
        group = self.table.module.astype(np.int64) * int(k) + labels
        payload = centroid_payload(place(group, self.positions), labels)
        self.sizes["centroids_bytes"] = len(json.dumps(payload))
        return gr.update(centroids=payload)

    def on_turn(self) -> dict[str, Any]:
        """A new picture of the same units."""
        return gr.update(value=self.turned)

    def on_pick(self, event: gr.EventData) -> str:
        """How many were picked."""
        return str(len(picked_ids(event, self.count)))

    def build(self) -> gr.Blocks:
        """The page."""
        with gr.Blocks() as page:
            chart = unit_map(self.points, elem_id="map")
            k, turn, said = gr.Number(4, elem_id="k"), gr.Button("turn"), gr.Textbox(elem_id="said")
            k.input(self.on_k, k, chart, show_progress="hidden")
            turn.click(self.on_turn, None, chart, show_progress="hidden")
            chart.pick(self.on_pick, None, said, show_progress="hidden")
        return page


def milliseconds(page: Page, act: str, until: str) -> float:
    """By the page's own clock: run `act`, then wait frame by frame until `until` holds."""
    script = f"""() => new Promise((resolve) => {{
      const start = performance.now();
      {act};
      const look = () => ({until}) ? resolve(performance.now() - start) : requestAnimationFrame(look);
      look();
    }})"""
    return float(page.evaluate(script))


def set_k(value: int) -> str:
    """JavaScript that types a number into k."""
    return (
        "const box = document.querySelector('#k input');"
        f"Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(box, '{value}');"
        "box.dispatchEvent(new Event('input', {bubbles: true}))"
    )


def lasso(page: Page) -> float:
    """Milliseconds from the mouse button's release until Python's answer stands in the page."""
    box = page.locator("#map .stage").bounding_box()
    assert box is not None
    left, top, right, bottom = (
        box["x"] + 150,
        box["y"] + 80,
        box["x"] + box["width"] - 150,
        box["y"] + box["height"] - 80,
    )
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom), (left, top)):
        page.mouse.move(x, y, steps=3)
    start = time.perf_counter()
    page.mouse.up()
    page.wait_for_function("document.querySelector('#said textarea, #said input').value !== ''", timeout=120_000)
    return (time.perf_counter() - start) * 1e3


def measure(count: int) -> dict[str, Any]:
    """One page, everything in turn."""
    app = App(count)
    blocks = app.build()
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, run_history=False)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        start = time.perf_counter()
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_function("window.__loomMap && window.__loomMap.points > 0", timeout=120_000)
        first = (time.perf_counter() - start) * 1e3
        moves = [milliseconds(page, set_k(k), f"window.__loomMap.centroids === {MODULES * k}") for k in (5, 6, 7, 8, 9)]
        turn = milliseconds(
            page,
            "window.before = window.__loomMap.version; [...document.querySelectorAll('button')]"
            ".find((b) => b.textContent.trim() === 'turn').click()",
            "window.__loomMap.version !== window.before",
        )
        picked = lasso(page)
        browser.close()
    blocks.close()
    median = sorted(moves)[len(moves) // 2]
    return {
        "units": count,
        **app.sizes,
        "first_picture_ms": first,
        "centroids_ms": median,
        "new_layout_ms": turn,
        "lasso_to_python_and_back_ms": picked,
    }


def main() -> None:
    """Both sizes, printed and kept."""
    rows = [measure(5_000), measure(50_000)]
    for row in rows:
        print(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
