"""The room Compose: library, map, mixer, preview and what is kept, on one screen; they know nothing of each other."""

from __future__ import annotations

import gradio as gr

from studio.ui.compose.by_module import ByModulePanel
from studio.ui.compose.history import HistoryPanel
from studio.ui.compose.layouts import Layouts
from studio.ui.compose.library import LibraryPanel
from studio.ui.compose.mixer import MixerPanel
from studio.ui.compose.preview import PreviewPanel
from studio.ui.compose.selection import SelectionPanel
from studio.ui.compose.units import UnitsPanel
from studio.ui.shell.panel import Panel, Shared
from studio.ui.shell.room import Room


class ComposePanel:
    """The parts of the room. The recipe sets their controls, so they belong to `shared.panels`."""

    def __init__(self, shared: Shared) -> None:
        with gr.Row(elem_id="upper"):
            self.library = LibraryPanel(shared)
            with gr.Column(scale=7, min_width=340, elem_id="units"):
                self.units = UnitsPanel(shared, Layouts())
                self.selection = SelectionPanel(shared, self.units)
            with gr.Column(scale=5, min_width=320, elem_id="mixer"), gr.Tabs():
                self.mixer, self.by_module = MixerPanel(shared), ByModulePanel(shared)
                self.selection.build_tab()
        with gr.Row(elem_id="lower"):
            self.preview = PreviewPanel(shared)
            self.history = HistoryPanel(shared)
        middle: list[Panel] = [self.library, self.units, self.selection, self.mixer, self.by_module]
        self.parts: list[Panel] = [*middle, self.preview, self.history]
        shared.panels.extend(self.parts)

    def wire(self, tab: gr.Tab) -> None:
        """Connect the listeners of every part; the page opens with this room, so nothing waits for `tab`."""
        for part in self.parts:
            part.wire()


ROOM = Room(
    id="compose",
    title="Compose",
    summary="Open adapters, see their units on a map, merge them, read what the merge writes, export it.",
    docs="page.md",
    panel=ComposePanel,
)
