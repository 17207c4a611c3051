"""What a room of the page is: a tab with a panel of its own, and a page of the docs that has a row for each control."""

from __future__ import annotations

from dataclasses import dataclass

from studio.ui.shell.panel import TabPanel


@dataclass(frozen=True, slots=True)
class Room:
    """A room, declared beside its panel and listed in `studio.ui.rooms`; `title` is the label of its tab.

    `docs` is a page of docs/reference whose section "Controls of <title>" has a row for each control of the room.
    """

    id: str
    title: str
    summary: str
    docs: str
    panel: type[TabPanel]

    @property
    def heading(self) -> str:
        """The heading of the section that explains the controls."""
        return f"Controls of {self.title}"
