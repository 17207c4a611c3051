"""Generated sections of the docs: what the pages hold is what the registries say, and writing one loses nothing."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tools.document import SECTIONS, STREET, filled, pages
from tools.layers import FLOORS
from tools.marks import between, names
from tools.street import ROOM, direct, picture, places, ways

FILLED = "before\n<!-- x -->\n\nnew\n\n<!-- /x -->\nafter\n"


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_a_page_is_what_the_registries_say(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert page == filled(page), "run `python -m tools.document`"


def test_every_section_stands_on_one_page() -> None:
    found = [name for path in pages() for name in names(path.read_text(encoding="utf-8")) if name in SECTIONS]
    assert sorted(found) == sorted(SECTIONS)


def test_the_picture_of_the_packages_is_what_they_import() -> None:
    drawn = picture()
    assert STREET.read_text(encoding="utf-8") == drawn, "run `python -m tools.document`"
    assert all(f">{package.removeprefix('studio.')}</text>" in drawn for package in FLOORS)


def test_an_arrow_that_a_longer_way_implies_is_not_drawn() -> None:
    graph: dict[str, set[str]] = {"ui": {"text", "core"}, "text": {"core"}, "core": set()}
    assert direct(graph) == [("text", "core"), ("ui", "text")]


def test_no_two_places_of_a_floor_lie_upon_each_other() -> None:
    at = places(ways([("studio.ui", "studio.text"), ("studio.ui", "studio.audio"), ("studio.routing", "studio.text")]))
    for floor in {stop.floor for stop in at}:
        row = sorted((place, stop.width) for stop, place in at.items() if stop.floor == floor)
        assert all(b - a >= (v + w) / 2 for (a, v), (b, w) in itertools.pairwise(row))
    assert sum(stop.width == ROOM for stop in at) == 4


@pytest.mark.parametrize("body", ["", "\n", "old", "\nold\n\nold\n"])
def test_a_section_is_replaced_and_the_rest_stays(body: str) -> None:
    page = between(f"before\n<!-- x -->\n{body}<!-- /x -->\nafter\n", "x", "new")
    assert page == FILLED
    assert between(page, "x", "new") == page


@pytest.mark.parametrize(
    "page",
    [
        "before\nafter\n",
        "before\n<!-- x -->\nafter\n",
        "before\n<!-- /x -->\nafter\n",
        "<!-- /x -->\n<!-- x -->\nafter\n",
        "<!-- x --><!-- /x -->\n<!-- x -->\nafter\n",
        "<!-- x -->\n<!-- y -->\n<!-- /y -->\nafter\n",
    ],
)
def test_lost_marks_are_said_and_no_page_is_cut(page: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        between(page, "x", "new")


def test_every_argument_of_the_command_line_is_explained() -> None:
    rows = [line for line in SECTIONS["command line"]().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert [row for row in rows if not row.rpartition(" | ")[2].strip("| ")] == []
