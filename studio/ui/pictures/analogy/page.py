"""Analogies: a is to a' as b is to b'. The mix of basis adapters that the pictures ask for lies open, as sliders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from studio.core.errors import Cancelled
from studio.session.analogy import AnalogySession
from studio.session.jobs import Job
from studio.ui.pictures.analogy.atlas import AtlasPanel
from studio.ui.pictures.analogy.baselines import BaselinesPanel
from studio.ui.pictures.analogy.export import ExportPanel
from studio.ui.pictures.analogy.format import heat, judged, mix_line, title
from studio.ui.pictures.analogy.other import OtherPanel
from studio.ui.pictures.analogy.pictures import PicturesPanel
from studio.ui.pictures.analogy.room import AnalogyRoom
from studio.ui.pictures.analogy.space import SpacePanel
from studio.ui.shell import markup
from studio.ui.shell.panel import PRIVATE, Shared, shows_errors_while
from studio.ui.shell.room import Room
from studio.vision.pictures import to_picture
from studio.vision.space import ready

_PATIENCE = 0.4
_LOOK = 0.1  # seconds between two looks at a drawing under way


class AnalogyPanel:
    """Pictures on the left, the space of edits on the right; every change of either draws b' anew."""

    def __init__(self, shared: Shared) -> None:
        self.room = room = AnalogyRoom(shared, gr.State(0))
        self.early = gr.State(False)  # the tab was opened before the page knew the visitor
        self.filled = gr.State(False)  # the page shows the visitor's analogy; one that was just opened does not
        self.space, self.atlas, self.keep = SpacePanel(room), AtlasPanel(room), ExportPanel(room)
        self.beside, self.other = BaselinesPanel(room), OtherPanel(room)
        with gr.Row():
            with gr.Column(scale=5, min_width=320, elem_id="pictures"):
                self.pictures = PicturesPanel(room)
            with gr.Column(scale=6, min_width=320, elem_id="space"):
                self._build_space()

    def _build_space(self) -> None:
        self.mix = gr.HTML(elem_id="mix")
        self.space.build_common()
        with gr.Tabs(elem_id="space-tabs"):
            with gr.Tab("Basis", elem_classes="pane"):
                self.space.build_basis()
            with gr.Tab("Between two", elem_classes="pane"):
                self.space.build_between()
            with gr.Tab("Map", elem_classes="pane"):
                self.atlas.build_map()
            with gr.Tab("Heat map", elem_classes="pane"):
                self.heat = gr.HTML(elem_id="heat")
            with gr.Tab("Plain LoRAs", elem_classes="pane"):
                self.beside.build()
            with gr.Tab("Keep", elem_classes="pane"):
                self.keep.build()
            with gr.Tab("FLUX", elem_classes="pane"):
                self.other.build()

    def wire(self, tab: gr.Tab) -> None:
        """Connect the listeners; the model is loaded when `tab` is first opened."""
        token, version, pictures = self.room.shared.token, self.room.version, self.pictures
        pictures.wire(self.space.gains)
        self.space.wire(pictures.steps, pictures.seed, pictures.scene)
        self.atlas.wire(pictures, self.space)
        self.keep.wire()
        self.beside.wire()
        self.other.wire(pictures.steps, self.space)
        opened = [pictures.state, pictures.strip, self.space.second, *self.space.gains, *pictures.slots, version]
        opened += [*self.space.fields, pictures.steps, pictures.seed, self.filled]
        tab.select(self.on_open, [token, self.filled], [*opened, self.early], **PRIVATE)
        token.change(self.on_token, [token, self.early], [*opened, self.early], **PRIVATE)
        shown = [
            pictures.b2,
            pictures.state,
            self.mix,
            self.heat,
            self.keep.download,
            self.keep.saved,
            self.keep.opened,
        ]
        version.change(
            self.on_version, [token], shown, trigger_mode="always_last", show_progress="hidden", concurrency_limit=4,
            **PRIVATE,
        )  # fmt: skip

    @shows_errors_while
    def on_open(self, token: str, is_filled: bool = False) -> Iterator[dict[Any, Any]]:
        """The tab was opened: load the model once, draw the strip of ready analogies, begin with the first."""
        state, models = self.pictures.state, self.room.models
        if not token:
            yield {state: markup.message("The page is still opening…", "busy"), self.early: True}
            return
        session = self.room.session(token)
        if not models.is_there:
            yield {state: markup.message("The embedded analogy model is not in this copy of the studio.", "refused")}
            return
        job = Job(models.load)
        while not job.wait(_PATIENCE):
            yield {state: markup.message("Loading the analogy model: a few seconds, once…", "busy")}
        job.result()
        if is_filled:
            yield {state: ""}
            return
        if session.version == 0:
            self.pictures.show(token, (models.names[0],), 0)
        yield {state: "", self.filled: True, **self._arrived(self.room.session(token))}

    def _arrived(self, session: AnalogySession) -> dict[Any, Any]:
        """Everything that a fresh page shows of a visitor's analogy; the new version draws b'."""
        strip = [(to_picture(ready((name,)).a2), title(name)) for name in self.room.models.names]
        slots = dict(zip(self.pictures.slots, (*session.pictures, session.truth), strict=True))
        size = self.room.opened(session).basis.basis.size
        return {
            self.pictures.strip: strip,
            self.space.second: self.space.choices(),
            **self.space.sized(size, session.gains),
            **self.space.shown(session),
            **slots,
            self.pictures.steps: session.steps,
            self.pictures.seed: session.seed,
            self.room.version: session.version,
        }

    @shows_errors_while
    def on_token(self, token: str, is_early: bool) -> Iterator[dict[Any, Any]]:
        """The page knows the visitor now: open what was waiting for that."""
        if is_early and token:
            yield {self.early: False}
            yield from self.on_open(token)

    @shows_errors_while
    def on_version(self, token: str) -> Iterator[dict[Any, Any]]:
        """Pictures or sliders changed: draw b' step by step, until something newer comes."""
        session = self.room.session(token)
        b2, state = self.pictures.b2, self.pictures.state
        if session.seen is None:
            yield {b2: None, self.mix: markup.message("Fill a, a′ and b, or pick a ready analogy."), self.heat: ""}
            return
        drawing = self.room.drawing(token, session)
        job = Job(drawing)
        layers = list(self.room.opened(session).model.basis.layers)
        gone = {self.keep.download: gr.update(visible=False), self.keep.saved: "", self.keep.opened: ""}
        yield {self.mix: mix_line(drawing.mix), self.heat: heat(drawing.mix, layers), **gone}
        told, shown = 0, None
        while not job.wait(_LOOK):
            done, of, _ = job.progress
            if done > told:
                told, shown = done, drawing.picture
                said = {state: markup.message(f"Drawing: step {done} of {of}…", "busy")}
                yield {**said, b2: shown} if shown is not None else said
        try:
            found = job.result()
        except Cancelled:
            return
        if drawing.is_current:
            truth = None if session.t and session.other is not None else session.truth  # it belongs to the first edit
            said = {state: judged(found, truth)}
            # The same picture twice would be one file, written anew while the browser reads it.
            yield said if shown is not None and shown.tobytes() == found.tobytes() else {**said, b2: found}


ROOM = Room(
    id="analogy",
    title="Analogy",
    summary="Draw b′ so that b is to b′ as a is to a′, with a basis of small adapters as sliders.",
    docs="analogy.md",
    panel=AnalogyPanel,
)
