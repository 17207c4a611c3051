"""The page: the bar, the rooms as tabs, and what a visitor's browser keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr

from studio.core.errors import LoomError
from studio.recipes.presets import load_preset, preset_ids
from studio.recipes.recipe import read_yaml
from studio.session.store import Sessions, Settings
from studio.session.workspace import Workspace
from studio.text.bases import is_at_hand
from studio.ui.compose.page import ComposePanel
from studio.ui.rooms import ROOMS
from studio.ui.shell.bar import Bar
from studio.ui.shell.panel import EDIT, PRIVATE, Shared, TabPanel, shows_errors
from studio.ui.shell.warm_up import WarmUp

EMBEDDED_BASE = "lora-loom/text-base"
_STORED = {"token": "", "recipe": ""}
Kind = TypeVar("Kind")


@dataclass(eq=False, repr=False)
class Page:
    """The built page and its parts; `tabs` and `panels` are the rooms', by their ids."""

    demo: gr.Blocks
    shared: Shared
    bar: Bar
    stored: gr.BrowserState
    warming: gr.HTML
    clock: gr.Timer
    tabs: Mapping[str, gr.Tab]
    panels: Mapping[str, TabPanel]

    @property
    def compose(self) -> ComposePanel:
        """The panel of the first room."""
        return self.panel(ComposePanel)

    def panel(self, kind: type[Kind]) -> Kind:
        """The room's panel that is of this class."""
        return next(panel for panel in self.panels.values() if isinstance(panel, kind))

    def wire(self) -> None:
        """Connect the listeners of the page itself, of the bar and of every room."""
        shared, bar, tabs = self.shared, self.bar, self.tabs.values()
        self.demo.load(self.on_load, [self.stored], [shared.token, self.stored, *tabs, *shared.controls()], **EDIT)
        shared.version.change(self.on_version, [shared.token], [self.stored, bar.undo, bar.redo], **EDIT)
        self.clock.tick(self.on_tick, None, [self.warming, self.clock], show_progress="hidden", **PRIVATE)
        bar.wire()
        for id, panel in self.panels.items():
            panel.wire(self.tabs[id])

    @shows_errors
    def on_load(self, stored: Any) -> dict[Any, Any]:
        """A visitor came, or came back: their workspace as they left it, or a living preset."""
        stored = stored if isinstance(stored, dict) else _STORED
        session, is_new = self.shared.sessions.enter(stored.get("token"))
        token, workspace = session.token, session.workspace
        if is_new:
            _furnish(workspace, stored.get("recipe"))
        workspace.touch()
        return {
            self.shared.token: token,
            self.stored: {"token": token, "recipe": workspace.recipe.to_yaml()},
            **{tab: gr.update(interactive=True) for tab in self.tabs.values()},  # each needs a workspace to look at
            **self.shared.refresh(workspace),
        }

    @shows_errors
    def on_version(self, token: str) -> dict[Any, Any]:
        """The recipe changed: the browser keeps it, for a reload, and the bar knows where in its history it is."""
        workspace = self.shared.workspace(token)
        return {self.stored: {"token": token, "recipe": workspace.recipe.to_yaml()}, **self.bar.buttons(workspace)}

    def on_tick(self) -> tuple[str, gr.Timer]:
        """Say what is still warming up; when all is there, stop asking."""
        status, is_done = self.shared.warm.status(), self.shared.warm.done.is_set()
        return status, gr.Timer(active=not is_done)


def build(settings: Settings | None = None) -> Page:
    """Make the page. Nothing heavy is imported here: `shared.warm` loads it in the background, once it is started."""
    sessions = Sessions(settings or Settings.from_environment())
    with gr.Blocks(title="LoRA Loom", fill_width=True, analytics_enabled=False, delete_cache=(3600, 86400)) as demo:
        token = gr.State("", delete_callback=sessions.leave)  # within an hour of a page's end
        shared = Shared(sessions, _warm_up(sessions), token, gr.State(0), gr.State(""))
        stored = gr.BrowserState(dict(_STORED), storage_key="lora-loom", secret="lora-loom")  # not secret: see on_load
        clock = gr.Timer(1.0)
        with gr.Row(elem_id="top", elem_classes="beside"):
            gr.Markdown("# LoRA Loom", elem_id="title")
            bar = Bar(shared)
        shared.panels.append(bar)
        warming = gr.HTML(elem_id="warming")
        tabs: dict[str, gr.Tab] = {}
        panels: dict[str, TabPanel] = {}
        with gr.Tabs(elem_id="rooms"):
            for room in ROOMS:
                with gr.Tab(room.title, interactive=room is ROOMS[0]) as tabs[room.id]:
                    panels[room.id] = room.panel(shared)
        page = Page(demo, shared, bar, stored, warming, clock, tabs, panels)
        page.wire()
    return page


def _furnish(workspace: Workspace, text: Any) -> None:
    """Put the browser's recipe on a new workspace, or the first preset; a recipe that no longer opens gives way."""
    if isinstance(text, str) and text:
        try:
            workspace.load(read_yaml(text), "as you left it")
            workspace.forget_history()
        except LoomError:
            pass
        else:
            return
    for id in preset_ids()[:1]:
        recipe = load_preset(id)
        try:
            workspace.load(recipe, f"preset {recipe.name}")
            workspace.forget_history()
        except LoomError:
            return


def _warm_up(sessions: Sessions) -> WarmUp:
    return WarmUp((("torch", _torch), ("text engine", _Text(sessions)), ("UMAP", _umap)))


def _torch() -> None:
    from studio.core.late import torch

    torch.set_num_threads(torch.get_num_threads())


def _umap() -> None:
    from studio.units import warm_up

    warm_up()


@dataclass(frozen=True, slots=True)
class _Text:
    """Opens the embedded base for all visitors."""

    sessions: Sessions

    def __call__(self) -> None:
        if is_at_hand(EMBEDDED_BASE):
            self.sessions.bases.get(EMBEDDED_BASE)
