"""The table of rooms in docs/reference/page.md."""

from __future__ import annotations

from collections.abc import Callable

from studio.ui.rooms import ROOMS


def table() -> str:
    """Every room in the order of the tabs, with the section that explains its controls."""
    rows = ["| room | what it is for | its controls |", "| --- | --- | --- |"]
    for room in ROOMS:
        anchor = room.heading.lower().replace(" ", "-")
        rows.append(f"| **{room.title}** | {room.summary} | [{room.heading}]({room.docs}#{anchor}) |")
    return "\n".join(rows)


def sections() -> dict[str, Callable[[], str]]:
    """The part of docs/reference/page.md that the list of rooms gives."""
    return {"rooms": table}
