from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest

from studio.core.adapter import Adapter, in_memory_module
from studio.core.errors import LoomError
from studio.ui.compose import map as map_module
from studio.ui.compose.map import centroid_payload, map_payload, muted_payload, picked_ids, unit_map
from studio.units import nearest, pca, place, units_of

CHANNELS = ("colour", "centroids", "muted", "picked", "note", "empty", "plotly", "height")


def adapters() -> list[Adapter]:
    draw = np.random.default_rng(0)
    names = [f"h.{layer}.attn" for layer in (10, 9)] + ["lm_head"]
    return [
        Adapter(
            source,
            {
                name: in_memory_module(name, *(draw.standard_normal(s).astype(np.float32) for s in ((3, 6), (5, 3))))
                for name in names
            },
            "test",
        )
        for source in ("<img src=x onerror=alert(1)>", "two")
    ]


def read(packed: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["data"]), f"<{packed['dtype']}")


def test_payload_holds_every_point_once() -> None:
    units = units_of(adapters())
    positions = pca(units.features)
    payload = map_payload(units.table, positions, nearest(units.grams, len(units.table)), frame="f")
    assert json.loads(json.dumps(payload)) == payload
    assert payload["points"] == payload["total"] == 18
    np.testing.assert_array_equal(np.stack([read(payload["x"]), read(payload["y"])], 1), positions)
    assert payload["layer"]["names"] == ["h.9", "h.10", "lm_head"]
    assert read(payload["layer"]["index"]).tolist() == [1] * 6 + [0] * 6 + [2] * 6
    assert payload["type"]["names"] == ["attn", "lm_head"]
    assert payload["source"]["names"][0].startswith("<img")
    assert read(payload["rank"]).tolist() == [0, 1, 2] * 6
    moved = map_payload(units.table, positions + 1, nearest(units.grams, 18), frame="f")
    assert moved["version"] != payload["version"]


def test_payload_of_some_rows_still_names_neighbours_that_are_not_drawn() -> None:
    units = units_of(adapters())
    near = nearest(units.grams, len(units.table))
    rows = np.array([2, 7, 11])
    payload = map_payload(units.table, pca(units.features)[rows], near, rows=rows)
    assert (payload["points"], payload["total"]) == (3, 18)
    other = near.unit.numpy()[rows]
    assert read(payload["near_source"]).tolist() == units.table.adapter[other].tolist()
    assert read(payload["near_rank"]).tolist() == units.table.rank[other].tolist()


def test_nothing_to_draw() -> None:
    units = units_of([])
    payload = map_payload(units.table, pca(units.features), nearest(units.grams, 0))
    assert payload["points"] == 0


@pytest.mark.parametrize("positions", [np.zeros((17, 2)), np.full((18, 2), np.nan), np.zeros((18, 3))])
def test_positions_that_do_not_fit(positions: np.ndarray) -> None:
    units = units_of(adapters())
    with pytest.raises(LoomError):
        map_payload(units.table, positions, nearest(units.grams, 18))


def test_small_channels() -> None:
    labels = np.array([0, 0, -1, 1])
    positions = np.array([[0, 0], [2, 2], [5, 5], [1, 3]], np.float32)
    payload = centroid_payload(place(labels, positions), labels)
    assert read(payload["x"]).tolist() == [1, 1]
    assert read(payload["size"]).tolist() == [2, 1]
    assert read(payload["labels"]).tolist() == [0, 0, 65535, 1]
    assert read(muted_payload(np.array([True, False]))).tolist() == [1, 0]


@pytest.mark.parametrize("how", ["click", "lasso", "box", "key"])
def test_picked_ids(how: str) -> None:
    event = gr.EventData(None, {"how": how, "ids": [4, 1, 4]})
    assert picked_ids(event, 5) == (1, 4)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "x",
        {},
        {"how": "lasso"},
        {"how": "lasso", "ids": "12"},
        {"how": "lasso", "ids": {"0": 1}},
        {"how": "lasso", "ids": [5]},
        {"how": "lasso", "ids": [-1]},
        {"how": "lasso", "ids": [1.0]},
        {"how": "lasso", "ids": [True]},
        {"how": "lasso", "ids": ["1"]},
        {"how": "lasso", "ids": [None]},
        {"how": "lasso", "ids": [[1]]},
        {"how": "lasso", "ids": [0] * 6},
        {"how": "<b>", "ids": [1]},
        {"how": ["lasso"], "ids": [1]},
    ],
)
def test_hostile_picks_are_refused(data: object) -> None:
    with pytest.raises(LoomError):
        picked_ids(SimpleNamespace(_data=data), 5)


def test_channels_are_properties_and_only_pick_and_clear_are_events() -> None:
    component = unit_map()
    assert callable(component.pick)
    assert callable(component.clear)
    assert not [name for name in CHANNELS if hasattr(component, name)]
    config = component.get_config()["props"]
    assert set(CHANNELS) <= set(config)
    assert config["plotly"].endswith("plotly.min.js")
    assert not Path(map_module.__file__).with_suffix(".pyi").exists()


def test_the_page_builds_no_html_from_names() -> None:
    script = (Path(map_module.__file__).parent / "static" / "map.js").read_text()
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|outerHTML", script)


def test_templates_hold_no_template_syntax_that_would_rebuild_the_plot() -> None:
    assert re.findall(r"\$\{(\w+)\}|\{\{", map_module._TEMPLATE) == ["height"]
    assert not re.search(r"\$\{|\{\{|`", (Path(map_module.__file__).parent / "static" / "map.css").read_text())
