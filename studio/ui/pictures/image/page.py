"""The Image room: what the adapters in the workspace do to a picture, side by side from one noise, or over two weights.

The base is any text-to-image pipeline in diffusers' layout. Adapters of the embedded analogy model are drawn by it, on
a picture of its world, so that the room is alive without a download.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from PIL import Image

from studio.core.adapter import Adapter
from studio.core.errors import Cancelled, LoomError
from studio.session.jobs import Job
from studio.session.runs import Kind
from studio.session.workspace import Workspace
from studio.text.folders import EMBEDDED as TEXT
from studio.ui.pictures.image.bases import Bases, Draws, brought
from studio.ui.pictures.image.form import MOST, DrawForm, GridForm
from studio.ui.shell import markup
from studio.ui.shell.forms import submits
from studio.ui.shell.panel import PRIVATE, Shared, shows_errors, shows_errors_while
from studio.ui.shell.room import Room
from studio.vision.licences import terms_of
from studio.vision.pipeline import BASE, STEPS, catalogue
from studio.vision.preview import Stop, Variant, Wish, columns, grid

_PATIENCE = 0.4
_ACROSS = 4  # pictures in a row, side by side
_DIFFUSION_STEPS = 20
_TOLD: dict[str, Any] = {**PRIVATE, "show_progress": "hidden"}  # the note says how far it is
_NO_EDIT = ("none: it shows no change", "")
_EMPTY = "Put adapters of an image model on the desk in Compose, or press “Bring two adapters to try”."
_FIRST = (
    "See what image adapters do, alone and merged, from the same noise",
    (
        "“Bring two adapters to try” puts two small LoRAs on the desk in place of what is there; Undo brings it back.",
        "Side by side: the base, every adapter alone at weight 1, and the merge on the desk.",
        "A grid: two adapters, the weight of one across, of the other down.",
        "LoRAs for SD 1.5, SDXL or FLUX need their base: a folder in diffusers' layout, or a Hub id.",
    ),
)


class ImagePanel:
    """What to draw on, what to draw, and the pictures."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.bases = Bases()
        with gr.Row():
            with gr.Column(scale=4, min_width=300, elem_id="image-wish"):
                self._build_wish()
            with gr.Column(scale=8, min_width=320, elem_id="image-shown"):
                self._build_pictures()

    def _build_wish(self) -> None:
        self.is_ours = gr.State(None)
        self.note = gr.HTML(markup.message(_EMPTY), elem_id="image-note")
        self.bring = gr.Button("Bring two adapters to try", size="sm", elem_id="image-bring")
        self.base = gr.Textbox(
            label="Base", info="a folder in diffusers' layout or a Hub id; empty: what the adapters name",
            elem_id="image-base",
        )  # fmt: skip
        self.accept = gr.Checkbox(label="I accept the base's terms", elem_id="image-accept", visible=False)
        self.prompt = gr.Textbox(label="Prompt", lines=2, elem_id="image-prompt", placeholder="What to draw")
        self.edit = gr.Dropdown(
            [_NO_EDIT],
            value="",
            label="Example",
            info="the edit that the embedded model is shown",
            elem_id="image-edit",
            visible=False,
        )
        self.steps = gr.Slider(1, 60, _DIFFUSION_STEPS, step=1, label="Steps", elem_id="image-steps")
        self.guidance = gr.Slider(
            0, 15, 5, step=0.5, label="Guidance", info="how closely to the prompt", elem_id="image-guidance"
        )
        self.size = gr.Slider(0, 1536, 0, step=64, label="Pixels", info="0: the base's own", elem_id="image-size")
        self.seed = gr.Number(0, label="Seed", info="of the noise", precision=0, elem_id="image-seed")

    def _build_pictures(self) -> None:
        with gr.Row():
            self.draw = gr.Button("Draw side by side", variant="primary", size="sm", elem_id="image-draw")
            self.halt = gr.Button("Stop", size="sm", interactive=False, min_width=70, scale=0, elem_id="image-halt")
        self.hint = gr.HTML(markup.first_view(*_FIRST), elem_id="image-hint")
        self.row = gr.Gallery(
            label="Side by side, from the same noise", columns=_ACROSS, height="auto",
            elem_id="image-row", object_fit="contain", visible=False,
        )  # fmt: skip
        with gr.Row():
            self.first = gr.Dropdown([], label="Across", info="weight of", min_width=120, elem_id="image-first")
            self.second = gr.Dropdown([], label="Down", info="weight of", min_width=120, elem_id="image-second")
            self.low = gr.Number(0.0, label="From", info="weight", min_width=70, elem_id="image-low")
            self.high = gr.Number(1.0, label="To", info="weight", min_width=70, elem_id="image-high")
            self.count = gr.Slider(2, MOST, 3, step=1, label="Steps a side", min_width=100, elem_id="image-count")
        self.lay = gr.Button("Draw the grid of two weights", size="sm", elem_id="image-lay")
        self.grid = gr.Gallery(
            label="Two weights", columns=3, height="auto", elem_id="image-grid", object_fit="contain", visible=False
        )

    def wire(self, tab: gr.Tab) -> None:
        """Connect the listeners; the room follows the workspace."""
        token = self.shared.token
        fitted = [self.edit, self.is_ours, self.prompt, self.guidance, self.size, self.steps, self.accept]
        given = [token, self.base, self.is_ours]
        named = [self.note, self.first, self.second, *fitted]
        tab.select(self.on_workspace, given, named, **_TOLD)
        self.shared.version.change(self.on_version, given, named, **_TOLD)
        for trigger in (self.base.blur, self.base.submit):
            trigger(self.on_base, given, fitted, **_TOLD)
        self.bring.click(self.on_bring, [token], [self.note, *self.shared.controls()], **_TOLD)
        rest = [self.hint, self.note, self.halt]
        self.draw.click(**submits(self.on_draw, DrawForm, self, token), outputs=[self.row, *rest], **_TOLD)
        self.lay.click(**submits(self.on_grid, GridForm, self, token), outputs=[self.grid, *rest], **_TOLD)
        self.halt.click(self.on_halt, [token], [self.halt], **_TOLD)

    @shows_errors
    def on_version(self, token: str, base: str | None, was_ours: bool | None) -> Any:
        """The recipe changed: the room follows it, once it was opened."""
        return {} if was_ours is None else self.on_workspace(token, base, was_ours)

    @shows_errors
    def on_workspace(self, token: str, base: str | None = None, was_ours: bool | None = None) -> dict[Any, Any]:
        """The tab was opened: name the adapters, and show the controls that their base listens to."""
        adapters = self.shared.workspace(token).adapters
        names = [adapter.name for adapter in adapters]
        updates = {self.note: markup.message(_said(adapters), "line"), **self._fitted(token, base, was_ours)}
        for menu, name in zip((self.first, self.second), _two(names), strict=True):
            updates[menu] = gr.update(choices=names, value=name)
        return updates

    @shows_errors
    def on_base(self, token: str, base: str | None, was_ours: bool | None) -> dict[Any, Any]:
        """Another base was typed: what was chosen and drawn stays, the controls become those of the base."""
        return self._fitted(token, base, was_ours)

    def _fitted(self, token: str, base: str | None, was_ours: bool | None) -> dict[Any, Any]:
        """The controls that the base listens to; the steps are reset for a base of the other kind alone."""
        workspace = self.shared.workspace(token)
        named = _base_of(workspace.adapters, base)
        is_ours = named == BASE
        terms = terms_of(named) if named and not is_ours and workspace.is_local else None
        edits = [_NO_EDIT, *((name.replace("_", " "), name) for name in catalogue())]
        updates: dict[Any, Any] = {
            self.is_ours: is_ours,
            self.edit: gr.update(choices=edits, visible=is_ours),
            self.accept: gr.update(visible=bool(terms and terms.is_restricted), info=str(terms or "")),
        }
        for control in (self.prompt, self.guidance, self.size):
            updates[control] = gr.update(visible=not is_ours)
        if is_ours != was_ours:
            updates[self.steps] = STEPS if is_ours else _DIFFUSION_STEPS
        return updates

    @shows_errors_while
    def on_bring(self, token: str) -> Iterator[dict[Any, Any]]:
        """Two analogies kept as LoRAs in the workspace, so that there is something to draw."""
        workspace = self.shared.workspace(token)
        yield {self.note: markup.message("Making two LoRAs of two analogies…", "busy")}
        job = Job(partial(brought, self.bases, workspace))
        while not job.wait(_PATIENCE):
            pass
        workspace.load(job.result(), "two analogies as LoRAs")
        yield self.shared.refresh(workspace)

    @shows_errors_while
    def on_draw(self, token: str, form: DrawForm) -> Iterator[dict[Any, Any]]:
        """Base, every source alone, and the merge."""
        workspace = self._workspace(token)
        variants = columns([(adapter, 1.0) for adapter in workspace.adapters], workspace.compose().adapter)
        yield from self._stream(token, form, variants, self.row, columns=min(_ACROSS, len(variants)))

    @shows_errors_while
    def on_grid(self, token: str, form: GridForm) -> Iterator[dict[Any, Any]]:
        """Pictures over the weights of two adapters."""
        by_name = {adapter.name: adapter for adapter in self._workspace(token).adapters}
        first, second = by_name.get(form.first or ""), by_name.get(form.second or "")
        if first is None or second is None or first is second:
            raise LoomError("A grid needs two adapters", next="choose two different ones of the desk")
        weights = form.weights()
        rows = grid(first, second, weights, weights)
        shape = {"columns": len(weights), "label": f"Weights: {first.name} across, {second.name} down"}
        yield from self._stream(token, form, [v for row in rows for v in row], self.grid, **shape)

    @shows_errors
    def on_halt(self, token: str) -> Any:
        """Stop; what is drawn stays."""
        drawing = self.shared.session(token).runs.get(DRAWING)
        if drawing is not None:
            drawing.cancel()
        return gr.update(interactive=False)

    def _stream(
        self, token: str, form: DrawForm, variants: Sequence[Variant], into: gr.Gallery, **shape: Any
    ) -> Iterator[dict[Any, Any]]:
        """One picture after another into a gallery of this shape, until it is stopped or the workspace moves on."""
        workspace = self._workspace(token)
        is_ours, opening = self._opening(workspace, form)
        wish = form.wish(is_ours)
        stop = self._begin(token, workspace)
        found: list[tuple[Image.Image, str]] = []
        yield {self.note: markup.message("Opening the base…", "busy"), self.halt: gr.update(interactive=True)}
        try:
            draws: Draws = yield from self._waited(opening, "Opening the base…", stop)
            yield {into: gr.update(value=[], **shape)}
            for place, variant in enumerate(variants, 1):
                said = f"Drawing {variant.title}: {place} of {len(variants)}…"
                picture = yield from self._waited(partial(_drawn, draws, wish, variant, stop), said, stop)
                found.append((picture, variant.title))
                yield {into: gr.update(value=[*found], visible=True), self.hint: gr.update(visible=False)}
        except Cancelled:
            yield self._ended(token, stop, f"Stopped: {len(found)} of {len(variants)} pictures are drawn.")
        except LoomError:
            yield self._ended(token, stop, "Nothing was drawn." if not found else "Not all was drawn.", "refused")
            raise
        else:
            yield self._ended(token, stop, f"{len(found)} pictures from the same noise.", "good")

    def _begin(self, token: str, workspace: Workspace) -> Moved:
        """The visitor's drawing from now on; the former one ends."""
        drawing = Moved(threading.Event(), workspace, workspace.version)
        self.shared.session(token).runs.put(DRAWING, drawing)
        return drawing

    def _ended(self, token: str, stop: Moved, text: str, level: str = "line") -> dict[Any, Any]:
        """What is said at the end, unless something newer is being drawn."""
        if self.shared.session(token).runs.get(DRAWING) is not stop:
            return {self.note: gr.skip()}
        return {self.note: markup.message(text, level), self.halt: gr.update(interactive=False)}

    def _waited(self, work: Any, said: str, stop: Stop) -> Generator[dict[Any, Any], None, Any]:
        """Work on a thread, saying what goes on and for how long; raises `Cancelled` once it is no longer wanted."""
        if stop():
            raise Cancelled("Something newer is drawn")
        job, began = Job(work), time.monotonic()
        while not job.wait(_PATIENCE):
            if stop():
                raise Cancelled("Something newer is drawn")
            seconds = int(time.monotonic() - began)
            told = f"{job.progress[2] or said}{f' {seconds} s' if seconds > 1 else ''}"
            yield {self.note: markup.message(told, "busy")}
        return job.result()

    def _opening(self, workspace: Workspace, form: DrawForm) -> tuple[bool, Any]:
        """Whether the embedded model draws, and the work of opening the base."""
        named = _base_of(workspace.adapters, form.base)
        if named == BASE:
            return True, partial(self.bases.embedded, form.edit if form.edit in catalogue() else "", 0)
        if named == TEXT:
            raise LoomError(
                "These adapters are for a text model", next="press “Bring two adapters to try”, or put others"
            )
        if not named:
            raise LoomError(
                "The adapters do not name their base", next="give a folder of diffusers' layout, or a Hub id"
            )
        if not workspace.is_local:
            raise LoomError("This studio opens no image bases", "it is shared", "run the studio on your own machine")
        terms = terms_of(named)
        if terms.is_restricted and not form.accept:
            raise LoomError("This base has terms of its own", str(terms), "read them, then tick the box")
        return False, partial(self.bases.get, named)

    def _workspace(self, token: str) -> Workspace:
        workspace = self.shared.workspace(token)
        if not workspace.recipe.sources:
            raise LoomError("There is nothing to draw", next="put adapters of an image model on the desk in Compose")
        return workspace


ROOM = Room(
    id="image",
    title="Image",
    summary="Draw one prompt from one noise by the base, every image adapter and the merge.",
    docs="image-preview.md",
    panel=ImagePanel,
)


@dataclass(frozen=True, eq=False)
class Moved:
    """What a drawing asks before each step: has the visitor stopped it, or put something else in the workspace?"""

    event: threading.Event
    workspace: Workspace
    version: int

    def __call__(self) -> bool:
        """Whether the drawing is no longer wanted."""
        return self.event.is_set() or self.workspace.version != self.version

    def cancel(self) -> None:
        """Stop it before its next step."""
        self.event.set()


DRAWING = Kind[Moved]("image drawing", "drawing")


def _base_of(adapters: Sequence[Adapter], given: str | None) -> str:
    """The base given, else the first that an adapter names."""
    return (given or "").strip() or next((adapter.base for adapter in adapters if adapter.base), "")


def _said(adapters: Sequence[Adapter]) -> str:
    """What is in the workspace, and that it is of no use here where every adapter is for a text model."""
    if not adapters:
        return _EMPTY
    named = f"On the desk: {', '.join(adapter.name for adapter in adapters)}."
    return f"{named} They are for a text model. {_EMPTY}" if all(a.base == TEXT for a in adapters) else named


def _drawn(draws: Draws, wish: Wish, variant: Variant, stop: Stop, on_step: Any) -> Image.Image:
    return draws.draw(wish, variant, stop=stop)


def _two(names: Sequence[str]) -> tuple[str | None, str | None]:
    return (names[0] if names else None), (names[1] if len(names) > 1 else None)
