"""The page: one screen of library, map, mixer, preview and history; panels know nothing of each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.core.errors import LoomError
from studio.recipes.presets import load_preset, preset_ids
from studio.recipes.recipe import read_yaml
from studio.session.store import Sessions, Settings
from studio.session.workspace import Workspace
from studio.text.bases import is_at_hand
from studio.ui.compose.by_module import ByModulePanel
from studio.ui.compose.history import HistoryPanel
from studio.ui.compose.layouts import Layouts
from studio.ui.compose.learn.page import LearningPanel
from studio.ui.compose.library import LibraryPanel
from studio.ui.compose.mixer import MixerPanel
from studio.ui.compose.preview import PreviewPanel
from studio.ui.compose.selection import SelectionPanel
from studio.ui.compose.units import UnitsPanel
from studio.ui.judge.page import ScoringPanel
from studio.ui.pictures.analogy import AnalogyPanel
from studio.ui.pictures.image.page import ImagePanel
from studio.ui.route.modalities.page import ModalityPanel
from studio.ui.route.page import RoutingPanel
from studio.ui.shell.panel import EDIT, PRIVATE, Shared, TabPanel, shows_errors
from studio.ui.shell.warm_up import WarmUp

# The tabs beside Compose, in order. Each is built with the page and does nothing until it is opened.
TABS: tuple[tuple[str, type[TabPanel]], ...] = (
    ("Learn", LearningPanel),
    ("Scoreboard", ScoringPanel),
    ("Route", RoutingPanel),
    ("Analogy", AnalogyPanel),
    ("Image", ImagePanel),
    ("Modalities", ModalityPanel),
)
EMBEDDED_BASE = "lora-loom/text-base"
_STORED = {"token": "", "recipe": ""}


@dataclass(eq=False)
class Page:
    """The built page and its parts."""

    demo: gr.Blocks
    shared: Shared
    library: LibraryPanel
    units: UnitsPanel
    selection: SelectionPanel
    mixer: MixerPanel
    by_module: ByModulePanel
    preview: PreviewPanel
    history: HistoryPanel
    stored: gr.BrowserState
    warming: gr.HTML
    clock: gr.Timer
    tabs: dict[str, tuple[gr.Tab, Any]]

    def wire(self) -> None:
        """Connect the listeners of the page itself and of every panel."""
        shared = self.shared
        tabs = [tab for tab, _ in self.tabs.values()]
        self.demo.load(self.on_load, [self.stored], [shared.token, self.stored, *tabs, *shared.controls()], **EDIT)
        shared.version.change(self.on_version, [shared.token], self.stored, **EDIT)
        self.clock.tick(self.on_tick, None, [self.warming, self.clock], show_progress="hidden", **PRIVATE)
        for panel in shared.panels:
            panel.wire()

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
            **{tab: gr.update(interactive=True) for tab, _ in self.tabs.values()},  # each needs a workspace to look at
            **self.shared.refresh(workspace),
        }

    @shows_errors
    def on_version(self, token: str) -> dict[str, str]:
        """The recipe changed: the browser keeps it, for a reload."""
        return {"token": token, "recipe": self.shared.workspace(token).recipe.to_yaml()}

    def on_tick(self) -> tuple[str, gr.Timer]:
        """Say what is still warming up; when all is there, stop asking."""
        status, is_done = self.shared.warm.status(), self.shared.warm.done.is_set()
        return status, gr.Timer(active=not is_done)


def build(settings: Settings | None = None) -> Page:
    """Make the page. Nothing heavy is imported here: `shared.warm` loads it in the background, once it is started."""
    sessions = Sessions(settings or Settings.from_environment())
    layouts = Layouts()
    with gr.Blocks(title="LoRA Loom", fill_width=True, analytics_enabled=False, delete_cache=(3600, 86400)) as demo:
        token = gr.State("", delete_callback=sessions.leave)  # within an hour of a page's end
        shared = Shared(sessions, _warm_up(sessions), token, gr.State(0), gr.State(""))
        stored = gr.BrowserState(dict(_STORED), storage_key="lora-loom", secret="lora-loom")  # not secret: see on_load
        clock = gr.Timer(1.0)
        history = HistoryPanel(shared)
        with gr.Row(elem_id="top", elem_classes="beside"):
            gr.Markdown("# LoRA Loom", elem_id="title")
            history.build_bar()
        warming = gr.HTML(elem_id="warming")
        opened: dict[str, tuple[gr.Tab, Any]] = {}
        with gr.Tabs(elem_id="rooms"):
            with gr.Tab("Compose"):
                with gr.Row(elem_id="upper"):
                    library = LibraryPanel(shared)
                    with gr.Column(scale=7, min_width=340, elem_id="units"):
                        units = UnitsPanel(shared, layouts)
                        selection = SelectionPanel(shared, units)
                    with gr.Column(scale=5, min_width=320, elem_id="mixer"), gr.Tabs():
                        mixer, by_module = MixerPanel(shared), ByModulePanel(shared)
                        selection.build_tab()
                with gr.Row(elem_id="lower"):
                    preview = PreviewPanel(shared)
                    history.build_tabs()
            for label, panel in TABS:
                with gr.Tab(label, interactive=False) as tab:
                    opened[label] = (tab, panel(shared))
        shared.panels.extend([library, units, selection, mixer, by_module, preview, history])
        page = Page(
            demo, shared, library, units, selection, mixer, by_module, preview, history, stored, warming, clock, opened
        )
        page.wire()
        for tab, room in opened.values():
            room.wire(tab)
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
