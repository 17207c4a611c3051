"""The Image room: what the adapters on the desk do to a picture, side by side from one noise, or over two weights.

The base is any text-to-image pipeline in diffusers' layout. Adapters of the embedded analogy model are drawn by it, on
a picture of its world, so that the room is alive without a download.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import gradio as gr
import numpy as np
from PIL import Image

from studio.adapter import Adapter
from studio.desk import Desk
from studio.errors import LoomError
from studio.export import export
from studio.recipe import Recipe
from studio.sources import UPLOAD
from studio.text.folders import EMBEDDED as TEXT
from studio.ui import views
from studio.ui.panel import PRIVATE, Job, Shared, told, told_while
from studio.uploads import receive
from studio.vision.keeping import OpenBasis, kept, recipe_of
from studio.vision.licences import terms_of
from studio.vision.lorweb_file import find_lorweb
from studio.vision.pictures import to_picture
from studio.vision.pipeline import BASE, EMBEDDED, STEPS, AnalogyModel, Seen, catalogue, load_embedded
from studio.vision.preview import Stop, Variant, Wish, columns, grid, open_image_base
from studio.vision.space import ready

_PATIENCE = 0.4
_MOST = 6  # pictures on a side of the grid
_NO_EDIT = ("none: it shows no change", "")
_TRIED, _WEIGHT = ("grayscale", "blur"), 0.7  # two analogies that show alone and together
_RANK = 16  # of the LoRAs made of them
_EMPTY = "Put adapters of an image model on the desk in Compose, or press “Bring two adapters to try”."
_FIRST = (
    "See what image adapters do, alone and merged, from the same noise",
    (
        "“Bring two adapters to try” puts two small LoRAs on the desk; the embedded model draws with them in seconds.",
        "Side by side: the base, every adapter alone at weight 1, and the merge on the desk.",
        "A grid: two adapters, the weight of one across, of the other down.",
        "LoRAs for SD 1.5, SDXL or FLUX need their base: a folder in diffusers' layout, or a Hub id.",
    ),
)


class Draws(Protocol):
    """What draws one picture with some adapters in it."""

    def draw(self, wish: Wish, variant: Variant, *, stop: Stop | None = None) -> Image.Image:
        """The picture."""


@dataclass(frozen=True, eq=False)
class EmbeddedImages:
    """The embedded analogy model as a base: an example and a b of its world stay, the adapters change."""

    model: AnalogyModel
    seen: Seen

    def draw(self, wish: Wish, variant: Variant, *, stop: Stop | None = None) -> Image.Image:
        """The picture; two steps are enough, and quick enough not to be stopped."""
        return self.model.draw_loras(self.seen, variant.adapters, steps=wish.steps, seed=wish.seed)


@dataclass(eq=False)
class Bases:
    """The open base of the room, one at a time for all visitors, and the embedded model."""

    _key: str = ""
    _base: Draws | None = None
    _model: AnalogyModel | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, source: str, on_step: Any = None) -> Draws:
        """A diffusers pipeline by folder or Hub id."""
        with self._lock:
            if self._base is None or self._key != source:
                self._base = None  # the old one goes before the new one comes
                self._base, self._key = open_image_base(source), source
            return self._base

    def model(self) -> AnalogyModel:
        """The embedded model, loaded once."""
        with self._lock:
            if self._model is None:
                self._model = load_embedded()
            return self._model

    def embedded(self, edit: str, scene: int, on_step: Any = None) -> Draws:
        """The embedded model looking at one analogy; without an edit its example changes nothing."""
        found = ready((edit or catalogue()[0],), scene)
        after = found.a2 if edit else found.a
        return EmbeddedImages(self.model(), self.model().look(*map(to_picture, (found.a, after, found.b))))


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
        self.note = gr.HTML(views.message(_EMPTY), elem_id="image-note")
        self.bring = gr.Button("Bring two adapters to try", size="sm", elem_id="image-bring")
        self.base = gr.Textbox(
            label="Base", info="a folder in diffusers' layout or a Hub id; empty: what the adapters name",
            elem_id="image-base",
        )  # fmt: skip
        self.accept = gr.Checkbox(
            label="I accept the base's terms", info="asked for gated and non-commercial ones", elem_id="image-accept"
        )
        self.prompt = gr.Textbox(label="Prompt", lines=2, elem_id="image-prompt", placeholder="What to draw")
        self.edit = gr.Dropdown(
            [_NO_EDIT],
            value="",
            label="Example, for the embedded model",
            info="the edit that it is shown",
            elem_id="image-edit",
        )
        with gr.Row():
            self.steps = gr.Slider(1, 60, STEPS, step=1, label="Steps", info="20 and more for diffusion", min_width=110)
            self.guidance = gr.Slider(
                0, 15, 5, step=0.5, label="Guidance", info="how closely to the prompt", min_width=110
            )
        with gr.Row():
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=1 << 31, min_width=90)
            self.size = gr.Slider(0, 1536, 0, step=64, label="Pixels", info="0: the base's own", min_width=110)

    def _build_pictures(self) -> None:
        self.draw = gr.Button("Draw side by side", variant="primary", size="sm", elem_id="image-draw")
        self.hint = gr.HTML(views.first_view(*_FIRST), elem_id="image-hint")
        self.row = gr.Gallery(
            label="Side by side, from the same noise", columns=4, height=260,
            elem_id="image-row", object_fit="contain", visible=False,
        )  # fmt: skip
        with gr.Row():
            self.first = gr.Dropdown([], label="Across", info="weight of", elem_id="image-first")
            self.second = gr.Dropdown([], label="Down", info="weight of", elem_id="image-second")
            self.low = gr.Number(0.0, label="From", min_width=70, elem_id="image-low")
            self.high = gr.Number(1.0, label="To", min_width=70, elem_id="image-high")
            self.count = gr.Slider(2, _MOST, 3, step=1, label="Steps a side", min_width=100, elem_id="image-count")
        self.lay = gr.Button("Draw the grid of two weights", size="sm", elem_id="image-lay")
        self.grid = gr.Gallery(
            label="Two weights", columns=3, height=420, elem_id="image-grid", object_fit="contain", visible=False
        )

    def wire(self, tab: gr.Tab) -> None:
        """Connect the listeners; the room follows the desk."""
        token = self.shared.token
        named = [self.note, self.first, self.second, self.edit]
        for trigger in (tab.select, self.shared.version.change):
            trigger(self.on_desk, [token], named, show_progress="hidden", **PRIVATE)
        self.bring.click(self.on_bring, [token], [self.note, *self.shared.controls()], **PRIVATE)
        wish = [token, self.base, self.accept, self.edit, self.prompt, self.steps, self.guidance, self.seed, self.size]
        self.draw.click(self.on_draw, wish, [self.row, self.hint, self.note], **PRIVATE)
        knobs = [self.first, self.second, self.low, self.high, self.count]
        self.lay.click(self.on_grid, [*wish, *knobs], [self.grid, self.hint, self.note], **PRIVATE)

    @told
    def on_desk(self, token: str) -> dict[Any, Any]:
        """The desk changed: name its adapters."""
        if not token:
            return {}
        adapters = self.shared.desk(token).adapters
        names = [adapter.name for adapter in adapters]
        said = views.message(_said(adapters), "line")
        pick = [gr.update(choices=names, value=name) for name in _two(names)]
        edits = [_NO_EDIT, *((name.replace("_", " "), name) for name in catalogue())]
        return {self.note: said, self.first: pick[0], self.second: pick[1], self.edit: gr.update(choices=edits)}

    @told_while
    def on_bring(self, token: str) -> Iterator[dict[Any, Any]]:
        """Two analogies kept as LoRAs on the desk, so that there is something to draw."""
        desk = self.shared.desk(token)
        yield {self.note: views.message("Making two LoRAs of two analogies…", "busy")}
        job = Job(partial(_brought, self.bases, desk))
        while not job.wait(_PATIENCE):
            pass
        desk.load(job.result(), "two analogies as LoRAs")
        yield self.shared.refresh(desk)

    @told_while
    def on_draw(self, token: str, base: str, accept: bool, edit: str | None, *told: Any) -> Iterator[dict[Any, Any]]:
        """Base, every source alone, and the merge."""
        desk = self._desk(token)
        variants = columns([(adapter, 1.0) for adapter in desk.adapters], desk.compose().adapter)
        yield from self._stream(desk, base, accept, edit, told, variants, self.row)

    @told_while
    def on_grid(
        self, token: str, base: str, accept: bool, edit: str | None, prompt: str, steps: float, guidance: float,
        seed: float, size: float, first: str, second: str, low: float | None, high: float | None, count: float,
    ) -> Iterator[dict[Any, Any]]:  # fmt: skip
        """Pictures over the weights of two adapters."""
        desk = self._desk(token)
        by_name = {adapter.name: adapter for adapter in desk.adapters}
        if first not in by_name or second not in by_name or first == second:
            raise LoomError("A grid needs two adapters", next="choose two different ones of the desk")
        if low is None or high is None or not max(abs(low), abs(high)) <= 100:
            raise LoomError("The weights are out of range", next="give two numbers between -100 and 100")
        weights = np.linspace(low, high, min(max(int(count), 2), _MOST)).round(4).tolist()
        rows = grid(by_name[first], by_name[second], weights, weights)
        yield {self.grid: gr.update(value=[], columns=len(weights))}
        told = (prompt, steps, guidance, seed, size)
        yield from self._stream(desk, base, accept, edit, told, [v for row in rows for v in row], self.grid)

    def _stream(
        self, desk: Desk, base: str, accept: bool, edit: str | None, told: Sequence[Any], variants: Sequence[Variant],
        into: Any,
    ) -> Iterator[dict[Any, Any]]:  # fmt: skip
        """One picture after another, until the desk moves on."""
        version, found = desk.version, []
        prompt, steps, guidance, seed, size = told
        yield {self.note: views.message("Opening the base…", "busy")}
        is_ours, job = self._opening(desk, base.strip(), accept, edit)
        while not job.wait(_PATIENCE):
            pass
        draws: Draws = job.result()
        wish = Wish(prompt if not is_ours else "an analogy", int(steps), float(guidance), int(seed or 0), int(size))
        for place, variant in enumerate(variants):
            job = Job(partial(_drawn, draws, wish, variant, _Moved(desk, version)))
            while not job.wait(_PATIENCE):
                done = f"Drawing {variant.title}: {place + 1} of {len(variants)}…"
                yield {self.note: views.message(done, "busy")}
            found.append((job.result(), variant.title))
            yield {into: gr.update(value=[*found], visible=True), self.hint: gr.update(visible=False)}
        yield {self.note: views.message(f"{len(found)} pictures from the same noise.", "good")}

    def _opening(self, desk: Desk, base: str, accept: bool, edit: str | None) -> tuple[bool, Job]:
        """Whether the embedded model draws, and the work of opening the base."""
        named = base or next((adapter.base for adapter in desk.adapters if adapter.base), "")
        if named == BASE:
            return True, Job(partial(self.bases.embedded, edit if edit in catalogue() else "", 0))
        if not named:
            raise LoomError(
                "The adapters do not name their base", next="give a folder of diffusers' layout, or a Hub id"
            )
        if not desk.is_local:
            raise LoomError("This studio opens no image bases", "it is shared", "run the studio on your own machine")
        terms = terms_of(named)
        if terms.is_restricted and not accept:
            raise LoomError("This base has terms of its own", str(terms), "read them, then tick the box")
        return False, Job(partial(self.bases.get, str(Path(named).expanduser()) if Path(named).is_dir() else named))

    def _desk(self, token: str) -> Desk:
        desk = self.shared.desk(token)
        if not desk.recipe.sources:
            raise LoomError("There is nothing to draw", next="put adapters of an image model on the desk in Compose")
        return desk


@dataclass(frozen=True, eq=False)
class _Moved:
    """True once the desk has something else on it."""

    desk: Desk
    version: int

    def __call__(self) -> bool:
        return self.desk.version != self.version


def _said(adapters: Sequence[Adapter]) -> str:
    """What is on the desk, and that it is of no use here where every adapter is for a text model."""
    if not adapters:
        return _EMPTY
    named = f"On the desk: {', '.join(adapter.name for adapter in adapters)}."
    return f"{named} They are for a text model. {_EMPTY}" if all(a.base == TEXT for a in adapters) else named


def _brought(bases: Bases, desk: Desk, on_step: Any) -> Recipe:
    """A recipe of two analogies, each kept as a LoRA in the visitor's workspace."""
    opened = OpenBasis(bases.model().basis, find_lorweb(EMBEDDED / "lorweb"))
    sources = []
    for name in _TRIED:
        found = ready((name,), 1)
        mix = opened.basis.coefficients(bases.model().look(*map(to_picture, (found.a, found.a2, found.b))).query)
        recipe = recipe_of(opened, mix, rank=_RANK, name=name)
        path = export(kept(opened, recipe), recipe, desk.exports / f"{name}.zip")
        ((_, folder),) = receive([path], desk.workspace)
        if isinstance(folder, LoomError):
            raise folder
        sources.append({"path": f"{UPLOAD}{folder.name}", "name": name, "weight": _WEIGHT})
    return Recipe.model_validate({"name": "two analogies", "sources": sources, "method": "cat"})


def _drawn(draws: Draws, wish: Wish, variant: Variant, stop: Stop, on_step: Any) -> Image.Image:
    return draws.draw(wish, variant, stop=stop)


def _two(names: Sequence[str]) -> tuple[str | None, str | None]:
    return (names[0] if names else None), (names[1] if len(names) > 1 else None)
