"""The picture of the packages: each a room on its floor, arrows down to what it imports; docs/images/street.svg.

An arrow that a longer way implies is left out. An arrow that passes floors gets a place on each of them, so that it
goes around the rooms there; what stands on a floor is ordered by the mean place of what it is joined to.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tools.layers import FLOORS, LAYERS, imported

ROOM, PASSAGE, HEIGHT, GAP = 132, 18, 34, 26
"""Pixels: width of a room, of the passage of an arrow, height of a room, and what lies between two floors."""
_WIDTH, _MARGIN, _SWEEPS = 780, 24, 24
_STYLE = """
  rect.ground { fill: #f6f7fb } rect.room { fill: #fff; stroke: #5c6bc0 }
  text { fill: #1f2433; font: 14px ui-sans-serif, system-ui, sans-serif; text-anchor: middle }
  path { fill: none; stroke: #8a93b2; stroke-width: 1.4 } path.tip { fill: #8a93b2; stroke: none }
  @media (prefers-color-scheme: dark) {
    rect.ground { fill: #1b1e29 } rect.room { fill: #272b3a; stroke: #9fa8da }
    text { fill: #e6e8f0 } path { stroke: #7d86a8 } path.tip { fill: #7d86a8 }
  }
"""


class Stop(NamedTuple):
    """Where a way passes a floor: a room by its name, or a passage by the arrow that it belongs to."""

    name: str
    floor: int
    width: int


def direct(graph: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows of a graph without circles that no longer way implies, in order."""

    def beyond(name: str) -> set[str]:
        return graph[name].union(*map(beyond, graph[name])) if graph[name] else set()

    implied = {name: set().union(*map(beyond, targets)) for name, targets in graph.items()}
    return sorted((name, target) for name, targets in graph.items() for target in targets - implied[name])


def ways(arrows: Iterable[tuple[str, str]]) -> list[list[Stop]]:
    """Each arrow as the stops it makes, from its room down to the other."""
    found = []
    for above, below in arrows:
        passed = range(FLOORS[above] - 1, FLOORS[below], -1)
        passages = [Stop(f"{above} to {below}", floor, PASSAGE) for floor in passed]
        found.append([_room(above), *passages, _room(below)])
    return found


def places(lines: Sequence[Sequence[Stop]]) -> dict[Stop, float]:
    """The middle of every stop, from left to right: each near what it is joined to, none upon another."""
    joined: dict[Stop, list[Stop]] = {}
    for line in lines:
        for one, other in itertools.pairwise(line):
            joined.setdefault(one, []).append(other)
            joined.setdefault(other, []).append(one)
    floors = [sorted(stop for stop in joined if stop.floor == floor) for floor in range(len(LAYERS))]
    at = {stop: place for floor in floors for stop, place in zip(floor, _apart([0.0] * len(floor), floor), strict=True)}
    for sweep in range(_SWEEPS):
        for floor in floors if sweep % 2 else reversed(floors):
            wanted = {stop: sum(at[other] for other in joined[stop]) / len(joined[stop]) for stop in floor}
            floor.sort(key=lambda stop: (wanted[stop], stop))
            at.update(zip(floor, _apart([wanted[stop] for stop in floor], floor), strict=True))
    return at


def picture() -> str:
    """The whole drawing as SVG."""
    lines = ways(direct(imported()))
    at = places(lines)
    left = min(place - stop.width / 2 for stop, place in at.items())
    right = max(place + stop.width / 2 for stop, place in at.items())
    width, height = max(_WIDTH, right - left + 2 * _MARGIN), len(LAYERS) * (HEIGHT + GAP) - GAP + 2 * _MARGIN
    shift = (width - right - left) / 2
    drawn = [_line([(at[stop] + shift, stop) for stop in line]) for line in lines]
    rooms = [_drawn_room(at[stop] + shift, stop) for stop in sorted(at) if stop.width == ROOM]
    title = "The packages of LoRA Loom on their floors; arrows lead down to what a package imports"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img">',
            f"<title>{title}</title>\n<style>{_STYLE}</style>",
            f'<rect class="ground" width="{width:.0f}" height="{height}" rx="10"/>',
            *drawn,
            *rooms,
            "</svg>\n",
        ]
    )


def _room(package: str) -> Stop:
    return Stop(package, FLOORS[package], ROOM)


def _apart(wanted: Sequence[float], floor: Sequence[Stop]) -> list[float]:
    """Places as near to the wanted ones as their order and widths allow, the mean error zero."""
    found: list[float] = []
    for i, place in enumerate(wanted):
        least = found[-1] + (floor[i - 1].width + floor[i].width) / 2 + PASSAGE if found else place
        found.append(max(place, least))
    error = sum(a - b for a, b in zip(found, wanted, strict=True)) / max(len(found), 1)
    return [place - error for place in found]


def _top(stop: Stop) -> int:
    return _MARGIN + (len(LAYERS) - 1 - stop.floor) * (HEIGHT + GAP)


def _line(points: Sequence[tuple[float, Stop]]) -> str:
    """A smooth way down, curved between two floors and straight past one, with a tip at its end."""
    before, first = points[0]
    parts = [f"M{before:.0f} {_top(first) + HEIGHT}"]
    for place, stop in points[1:]:
        x, y, half = round(place), _top(stop), GAP // 2
        parts.append(f"C{round(before)} {y - half} {x} {y - half} {x} {y}")
        parts += [f"V{y + HEIGHT}"] if stop.width == PASSAGE else []
        before = place
    x, y = round(points[-1][0]), _top(points[-1][1])
    return f'<path d="{" ".join(parts)}"/><path class="tip" d="M{x} {y}l-4 -7h8z"/>'


def _drawn_room(x: float, stop: Stop) -> str:
    name = stop.name.removeprefix("studio.")
    return (
        f'<rect class="room" x="{x - ROOM / 2:.0f}" y="{_top(stop)}" width="{ROOM}" height="{HEIGHT}" rx="6"/>'
        f'<text x="{x:.0f}" y="{_top(stop) + HEIGHT / 2 + 5:.0f}">{name}</text>'
    )
