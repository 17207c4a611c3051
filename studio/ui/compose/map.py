"""The map of units: a WebGL scatter that keeps its zoom, tells Python what was picked, and never needs a CDN.

The component has one channel for the points (its value) and small ones beside it, so that a slider sends a few
kilobytes and not the cloud again: `centroids`, `muted`, `picked`, `colour` and `note`, each by `gr.update(name=...)`.
Events: `pick` with `how` ("click", "lasso", "box" or "key") and `ids`, read by `picked_ids`; and `clear`.
Names travel as data and are written as text, never as HTML.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import gradio as gr
import numpy as np
import plotly
from gradio.utils import is_static_file

from studio.core.errors import LoomError
from studio.units import Centroids, UnitTable, layer_of, module_type_of
from studio.units.gram import Nearest
from studio.units.pool import natural

Colour = Literal["source", "layer", "type", "cluster"]
COLOURS: tuple[tuple[str, Colour], ...] = (
    ("Source", "source"),
    ("Layer", "layer"),
    ("Module type", "type"),
    ("Cluster", "cluster"),
)

_STATIC = Path(__file__).parent / "static"
_PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
_NONE = np.uint16(65535)
_TEMPLATE = """
<div class="loom-map" style="--loom-map-height: ${height}px">
  <div class="bar"><div class="legend"></div><button type="button" class="clear" hidden>Clear selection</button></div>
  <div class="stage" tabindex="0" role="application" aria-label="Map of units. Arrow keys move from unit to unit,
    Enter picks one, Escape clears the selection.">
    <div class="plot"></div><canvas class="overlay"></canvas><div class="tip" hidden></div><p class="empty"></p>
  </div>
  <div class="note" role="status"></div><div class="say" aria-live="polite"></div>
</div>
"""


def unit_map(
    value: dict[str, Any] | None = None,
    *,
    height: int = 460,
    colour: Colour = "source",
    note: str = "",
    empty: str = "Units appear here: add an adapter, or wait while they are read.",
    **html: Any,
) -> gr.HTML:
    """The map component; `value` is what `map_payload` returns, or None for the empty state.

    A plain `gr.HTML`, since a subclass makes Gradio write a stub file beside this one, which a read-only installation
    does not survive. Do not name it in `inputs=`: the whole cloud would travel back.
    """
    if not is_static_file(_PLOTLY):  # this one file and nothing beside it
        gr.set_static_paths([_PLOTLY])
    return gr.HTML(
        value,
        html_template=_TEMPLATE,
        css_template=(_STATIC / "map.css").read_text("utf-8"),
        js_on_load=(_STATIC / "map.js").read_text("utf-8"),
        plotly=_PLOTLY.resolve().as_posix(),
        height=height,
        colour=colour,
        centroids=None,
        muted=None,
        picked=[],
        note=note,
        empty=empty,
        **html,
    )


def map_payload(
    table: UnitTable,
    positions: np.ndarray[Any, Any],
    near: Nearest,
    *,
    rows: np.ndarray[Any, Any] | None = None,
    frame: str = "",
) -> dict[str, Any]:
    """The points of the map, packed once: positions (n, 2) of the table's `rows`, by default of all.

    Pictures with the same `frame` share their zoom (PCA and UMAP of the same units); another frame starts afresh.
    """
    rows = np.arange(len(table)) if rows is None else rows
    if positions.shape != (len(rows), 2) or not np.isfinite(positions).all():
        raise LoomError(f"Positions of shape {positions.shape} do not place {len(rows)} units")
    names = [place.name for place in table.places]
    other = near.unit.numpy()[rows]
    known = other >= 0
    return {
        "version": hashlib.sha256(np.ascontiguousarray(positions, np.float32).tobytes()).hexdigest()[:12],
        "frame": frame,
        "points": len(rows),
        "total": len(table),
        "x": pack(positions[:, 0], "f4"),
        "y": pack(positions[:, 1], "f4"),
        "energy": pack(table.energy[rows], "f4"),
        "module_energy": pack(table.module_energy[rows], "f4"),
        "rank": pack(table.rank[rows], "u2"),
        "near_source": pack(np.where(known, table.adapter[other], _NONE), "u2"),
        "near_rank": pack(np.where(known, table.rank[other], _NONE), "u2"),
        "near_cosine": pack(near.cosine.numpy()[rows], "f4"),
        "module": {"names": names, "index": pack(table.module[rows], "u2")},
        "source": {"names": list(table.adapters), "index": pack(table.adapter[rows], "u2")},
        "layer": _grouped([layer_of(name) for name in names], table.module[rows]),
        "type": _grouped([module_type_of(name) for name in names], table.module[rows]),
    }


def centroid_payload(centroids: Centroids, labels: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The clusters of the drawn points: centroids, their sizes, and each point's label, -1 for none."""
    return {
        "x": pack(centroids.xy[:, 0], "f4"),
        "y": pack(centroids.xy[:, 1], "f4"),
        "size": pack(centroids.size, "u4"),
        "labels": pack(np.where(labels >= 0, labels, _NONE), "u2"),
    }


def muted_payload(muted: np.ndarray[Any, Any]) -> dict[str, str]:
    """A flag for each drawn point; muted units are drawn hollow and grey."""
    return pack(muted, "u1")


def pack(values: np.ndarray[Any, Any], dtype: str) -> dict[str, str]:
    """Numbers as base64 of little-endian values: f4, u1, u2 or u4."""
    return {"dtype": dtype, "data": base64.b64encode(np.ascontiguousarray(values, f"<{dtype}").tobytes()).decode()}


def picked_ids(event: Any, points: int) -> tuple[int, ...]:
    """The points an event from the page names, checked, without repeats, ascending.

    `points` is how many are drawn. Raises `LoomError` for anything that the map itself would not send.
    """
    data = getattr(event, "_data", event)
    how, ids = (data.get("how"), data.get("ids")) if isinstance(data, dict) else (None, None)
    if how not in ("click", "lasso", "box", "key") or not isinstance(ids, list) or len(ids) > points:
        raise LoomError("The map sent a selection that cannot be read", "expected a list of points", "reload the page")
    if any(type(item) is not int or not 0 <= item < points for item in ids):
        raise LoomError(
            "The map named a point that is not on it", "the page may be older than the map", "reload the page"
        )
    return tuple(sorted(set(ids)))


def _grouped(label_of_module: Sequence[str], module: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Names in natural order, and each point's index into them."""
    names = sorted(set(label_of_module), key=natural)
    index = {name: position for position, name in enumerate(names)}
    own = np.array([index[label] for label in label_of_module], np.uint16)
    return {"names": names, "index": pack(own[module] if len(own) else own, "u2")}
