"""What learning looks like while it goes on: the loss curve and the heat map of coefficients, as HTML of our own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape
from itertools import groupby
from typing import Any

import numpy as np

from studio.units.pool import layer_of

_WIDTH, _HEIGHT, _LEFT = 460, 150, 34
_MAX_COLUMNS = 800  # cells of one adapter on the page; more are averaged in groups
Point = tuple[int, float]


def loss_curve(losses: Sequence[float], valid: Sequence[Point], steps: int) -> str:
    """Training loss of every step as a line, validation losses as dots joined; nats an answer token."""
    points = [*enumerate(losses, start=1), *valid]
    if not points:
        return ""
    most = max(value for _, value in points) * 1.05 or 1.0
    train = _path([(step, value) for step, value in enumerate(losses, start=1)], steps, most)
    check = _path(valid, steps, most)
    dots = "".join(
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.5'><title>step {step}: {value:.3f}</title></circle>"
        for (step, value), (x, y) in zip(valid, _places(valid, steps, most), strict=True)
    )
    status = f"Loss after step {len(losses)} of {steps}: {losses[-1]:.3f}" if losses else "Loss before the first step"
    return (
        f"<figure class='curve'><svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{status}'>"
        f"<line x1='{_LEFT}' y1='{_HEIGHT - 14}' x2='{_WIDTH}' y2='{_HEIGHT - 14}' class='axis'/>"
        f"<text x='0' y='12'>{most:.2g}</text><text x='0' y='{_HEIGHT - 14}'>0</text>"
        f"<text x='{_WIDTH}' y='{_HEIGHT - 1}' text-anchor='end'>step {steps}</text>"
        f"<path class='train' d='{train}'/><path class='valid' d='{check}'/><g class='valid'>{dots}</g></svg>"
        "<figcaption><span class='train'>training</span> and <span class='valid'>validation</span> loss, "
        "nats an answer token</figcaption></figure>"
    )


def _places(points: Sequence[Point], steps: int, most: float) -> list[tuple[float, float]]:
    across, down = (_WIDTH - _LEFT - 4) / max(1, steps), (_HEIGHT - 20) / most
    return [(_LEFT + step * across, _HEIGHT - 14 - value * down) for step, value in points]


def _path(points: Sequence[Point], steps: int, most: float) -> str:
    return " ".join(f"{'M' if i == 0 else 'L'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(_places(points, steps, most)))


def heat_map(rows: Sequence[str], names: Sequence[str], coefficients: np.ndarray[Any, Any]) -> str:
    """Coefficients (modules, adapters): an adapter a row, a module a column, layers in groups.

    Blue adds, orange subtracts, the deeper the more; a cell that nothing depends on is left out.
    """
    labels, cells = _thinned(rows, coefficients)
    most = max(1.0, float(np.nanmax(np.abs(cells))) if np.isfinite(cells).any() else 1.0)
    body = "".join(
        f"<tr><th scope='row'>{escape(name)}</th>{''.join(map(partial(_cell, most), labels, cells[:, i]))}"
        f"<td class='mean'>{np.nanmean(cells[:, i]):.2f}</td></tr>"
        for i, name in enumerate(names)
    )
    heads = "".join(
        f"<th scope='colgroup' colspan='{len(list(group))}'>{escape(layer.rpartition('.')[2])}</th>"
        for layer, group in groupby(labels, key=_layer)
    )
    caption = "Coefficient of each adapter in each module, by layer. Blue adds, orange subtracts; "
    caption += f"full colour is ±{most:.2f}."
    return (
        f"<div class='scroll'><table class='soup'><caption>{caption}</caption>"
        f"<tr><th></th>{heads}<th>mean</th></tr>{body}</table></div>"
    )


def _cell(most: float, label: str, value: float) -> str:
    """One coefficient as a cell."""
    if not np.isfinite(value):
        return "<td class='none'></td>"
    sign = "less" if value < 0 else "more"
    where = escape(f"{label.rpartition('.')[2]} in {_layer(label)}: {value:.3f}")
    return f"<td class='{sign}' style='--heat:{abs(value) / most:.2f}' title='{where}'></td>"


def _layer(label: str) -> str:
    return layer_of(label.partition("[")[0])


def _thinned(rows: Sequence[str], cells: np.ndarray[Any, Any]) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Rows that a page can show; of very many, means of neighbours."""
    if len(rows) <= _MAX_COLUMNS:
        return list(rows), cells
    groups = np.array_split(np.arange(len(rows)), _MAX_COLUMNS)
    return [rows[group[0]] for group in groups], np.stack([np.nanmean(cells[group], 0) for group in groups])
