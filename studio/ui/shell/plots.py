"""Small plots as SVG of our own, with words for those who cannot see them, in colours that most eyes tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

# The map's colours in the map's order (static/map.js), so that an adapter looks the same everywhere; and the base's.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999933", "#882255")
GREY = "#8a8f98"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 300, 150, 40, 20
Points = Sequence[tuple[float, float]]


def lines(title: str, series: Mapping[str, Points], *, last: float, most: float, x: str = "step") -> str:
    """Named lines over 0 to `last` across and 0 to `most` up; each point says its value."""
    drawn = "".join(_line(name, points, PALETTE[i], last, most) for i, (name, points) in enumerate(series.items()))
    now = "; ".join(f"{name} {points[-1][1]:.3g}" for name, points in series.items() if points)
    keys = "".join(
        f"<span><i style='background:{PALETTE[i]}'></i>{escape(name)}</span>" for i, name in enumerate(series)
    )
    base = _HEIGHT - _BOTTOM
    return (
        f"<figure class='plot'><figcaption>{escape(title)}</figcaption>"
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{escape(f'{title}: {now}', quote=True)}'>"
        f"<path class='axis' d='M{_LEFT} 4V{base}H{_WIDTH}'/>"
        f"<text x='{_LEFT - 4}' y='16' text-anchor='end'>{most:.2g}</text>"
        f"<text x='{_LEFT - 4}' y='{base}' text-anchor='end'>0</text>"
        f"<text x='{_WIDTH}' y='{_HEIGHT - 3}' text-anchor='end'>{escape(x)} {last:.0f}</text>{drawn}</svg>"
        f"<p class='keys'>{keys}</p></figure>"
    )


def _line(name: str, points: Points, colour: str, last: float, most: float) -> str:
    places = [(*_place(point, last, most), point) for point in points]
    path = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y, _) in enumerate(places))
    dots = "".join(
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.2'><title>{escape(name)} at {at:.0f}: {value:.3g}</title></circle>"
        for x, y, (at, value) in places
    )
    return f"<g style='--line:{colour}'><path d='{path}'/>{dots}</g>"


def _place(point: tuple[float, float], last: float, most: float) -> tuple[float, float]:
    across = (_WIDTH - _LEFT - 4) / max(last, 1e-9)
    down = (_HEIGHT - _BOTTOM - 6) / max(most, 1e-9)
    return _LEFT + point[0] * across, _HEIGHT - _BOTTOM - min(point[1], most) * down


def bars(title: str, shares: Mapping[str, float], *, note: str = "") -> str:
    """Named shares of 1 as bars, with their figures."""
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td><i style='width:{100 * min(max(share, 0), 1):.1f}%'></i></td>"
        f"<td class='figure'>{share:.0%}</td></tr>"
        for name, share in shares.items()
    )
    said = f"<p class='message line'>{escape(note)}</p>" if note else ""
    return f"<table class='bars'><caption>{escape(title)}</caption>{rows}</table>{said}"


def heat(title: str, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[float]]) -> str:
    """Shares of 1 by row and column, darker for more."""
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr><th scope='row'>{escape(name)}</th>"
        + "".join(f"<td style='--heat:{min(max(value, 0), 1):.2f}'>{value:.0%}</td>" for value in values)
        + "</tr>"
        for name, values in zip(rows, cells, strict=True)
    )
    return (
        f"<div class='scroll'><table class='shares'><caption>{escape(title)}</caption>"
        f"<tr><td></td>{head}</tr>{body}</table></div>"
    )


def histogram(title: str, counts: Sequence[int], edges: Sequence[float]) -> str:
    """How often values fall between edges, as columns."""
    most, wide = max([*counts, 1]), (_WIDTH - _LEFT) / max(len(counts), 1)
    base = _HEIGHT - _BOTTOM
    columns = "".join(
        f"<rect x='{_LEFT + i * wide + 1:.1f}' y='{base - count / most * (base - 6):.1f}' width='{wide - 2:.1f}' "
        f"height='{count / most * (base - 6):.1f}'><title>{edges[i]:.2f} to {edges[i + 1]:.2f}: {count}</title></rect>"
        for i, count in enumerate(counts)
    )
    return (
        f"<figure class='plot'><figcaption>{escape(title)}</figcaption>"
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{escape(title, quote=True)}'>"
        f"<path class='axis' d='M{_LEFT} {base}H{_WIDTH}'/><g style='--line:{PALETTE[0]}'>{columns}</g>"
        f"<text x='{_LEFT}' y='{_HEIGHT - 3}'>{edges[0]:g}</text>"
        f"<text x='{_WIDTH}' y='{_HEIGHT - 3}' text-anchor='end'>{edges[-1]:g}</text></svg></figure>"
    )
