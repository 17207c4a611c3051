"""Analogies: a is to a' as b is to b'. The mix of basis adapters that the pictures ask for lies open, as sliders."""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from studio.adapter import in_memory_module
from studio.errors import LoomError
from studio.formats import save_adapter
from studio.late import torch
from studio.linalg import Pair, spectrum
from studio.ui import views
from studio.ui.map import pack, picked_ids, unit_map
from studio.ui.panel import EDIT, PRIVATE, Job, Shared, told, told_while
from studio.units import pca
from studio.vision.lorweb import effective_size
from studio.vision.pipeline import EMBEDDED, AnalogyModel, Seen, catalogue, load_embedded
from studio.vision.score import psnr
from studio.vision.space import between, gained, ready
from studio.vision.transforms import TRANSFORMS

_SIZE = 24  # adapters in the embedded basis; other bases show as many sliders as fit
_PATIENCE = 0.4
_FRAMES = 5
_MAPPED = 4  # analogies of each transform on the map
_FIRST = 0
Picture = Image.Image
OnStep = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Sitting:
    """One visitor's analogy: the pictures, what the model saw, the other end of an interpolation, and the sliders."""

    pictures: tuple[Picture | None, Picture | None, Picture | None] = (None, None, None)
    truth: Picture | None = None
    seen: Seen | None = None
    other: Any = None  # (layers, N), the mix of the second analogy
    gains: tuple[float, ...] = (1.0,) * _SIZE
    renormalise: bool = False
    temperature: float = 1.0
    strength: float = 1.0
    steps: int = 2
    seed: int = 0
    t: float = 0.0
    version: int = 0


@dataclass(eq=False)
class Sittings:
    """All visitors' analogies by token, the least used forgotten."""

    capacity: int = 200
    _kept: OrderedDict[str, Sitting] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def get(self, token: str) -> Sitting:
        """The visitor's sitting, a fresh one for a new visitor."""
        with self._lock:
            return self._kept.get(token, Sitting())

    def change(self, token: str, **fields: Any) -> Sitting:
        """Replace some fields; every change is a new version."""
        with self._lock:
            now = self._kept.pop(token, Sitting())
            self._kept[token] = made = replace(now, **fields, version=now.version + 1)
            while len(self._kept) > self.capacity:
                self._kept.popitem(last=False)
            return made


class AnalogyPanel:
    """Pictures in, b' out, and the sliders between."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.sittings = Sittings()
        self.store = _ModelStore()
        self.version = gr.State(0)
        with gr.Row():
            with gr.Column(scale=5, min_width=320, elem_id="pictures"):
                self._build_pictures()
            with gr.Column(scale=6, min_width=320, elem_id="space"):
                self._build_space()

    def _build_pictures(self) -> None:
        self.state = gr.HTML(
            views.message("The analogy model loads when this page is first opened."), elem_id="analogy-state"
        )
        with gr.Row():
            self.a = _slot("a: before", "slot-a")
            self.a2 = _slot("a′: after", "slot-a2")
        with gr.Row():
            self.b = _slot("b: yours", "slot-b")
            self.b2 = gr.Image(
                label="b′: drawn", interactive=False, height=172, elem_id="slot-b2", buttons=["download"]
            )
            self.truth = gr.Image(
                label="What the world says", interactive=False, height=172, elem_id="slot-truth", buttons=[]
            )
        self.ready = gr.Gallery(
            label="Ready analogies: pick an edit",
            columns=9,
            height=170,
            allow_preview=False,
            elem_id="ready",
            object_fit="contain",
        )
        with gr.Row():
            self.scene = gr.Number(
                0, label="Scene", info="Another number draws other pictures.", precision=0, minimum=0
            )
            self.steps = gr.Slider(1, 12, 2, step=1, label="Steps", elem_id="steps-analogy")
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        with gr.Accordion("Paint a picture", open=False):
            self.canvas = gr.ImageEditor(
                type="pil", height=260, elem_id="canvas", label="Paint", canvas_size=(256, 256)
            )
            with gr.Row():
                self.to_slot = [gr.Button(f"Use as {name}", size="sm") for name in ("a", "a′", "b")]

    def _build_space(self) -> None:
        self.mix = gr.HTML(elem_id="mix")
        with gr.Row():
            self.strength = gr.Slider(
                0, 2, 1, step=0.05, label="Strength", info="of the whole edit", elem_id="strength"
            )
            self.temperature = gr.Slider(
                0.2,
                4,
                1,
                step=0.05,
                label="Temperature",
                info="low: few adapters; high: all alike",
                elem_id="mix-temperature",
            )
        with gr.Tabs():
            with gr.Tab("Basis", elem_classes="pane"):
                with gr.Row():
                    self.renormalise = gr.Checkbox(label="Keep the total", info="muted shares go to the others")
                    self.reset = gr.Button("All back to 1", size="sm", scale=0, min_width=100)
                with gr.Row(elem_id="gains"):
                    self.gains = [
                        gr.Slider(0, 3, 1, step=0.05, label=str(i + 1), min_width=90, elem_id=f"gain-{i}")
                        for i in range(_SIZE)
                    ]
            with gr.Tab("Between two", elem_classes="pane"):
                gr.Markdown(
                    "Go from this edit to another; b stays. The reference pictures stay too, only the mix moves."
                )
                self.second = gr.Dropdown([], label="The other edit", elem_id="second")
                self.t = gr.Slider(0, 1, 0, step=0.02, label="Part of the way", elem_id="part")
                self.film = gr.Button("Draw the way", size="sm")
                self.strip = gr.Gallery(
                    label="The way", columns=_FRAMES, height=150, allow_preview=False, elem_id="film"
                )
            with gr.Tab("Map of mixes", elem_classes="pane"):
                self.draw_map = gr.Button("Map the mixes of many analogies", size="sm", elem_id="draw-map")
                self.map = unit_map(
                    height=280, elem_id="mix-map", empty="Each point will be one analogy; a click drives the sliders."
                )
            with gr.Tab("Heat map", elem_classes="pane"):
                self.heat = gr.HTML(elem_id="heat")
            with gr.Tab("Keep as LoRA", elem_classes="pane"):
                with gr.Row():
                    self.rank = gr.Slider(
                        0, 128, 0, step=1, label="Rank", info="0 keeps all: exact.", elem_id="keep-rank"
                    )
                    self.save = gr.Button(
                        "Save this analogy as a LoRA", size="sm", variant="primary", elem_id="save-analogy"
                    )
                self.download = gr.DownloadButton("Download", visible=False, size="sm", elem_id="download-analogy")
                self.saved = gr.HTML(elem_id="saved")

    # Listening -------------------------------------------------------------------------------------------------------

    def wire(self, tab: gr.Tab) -> None:
        """Connect the listeners; the model is loaded when `tab` is first opened."""
        token, version = self.shared.token, self.version
        slots = [self.a, self.a2, self.b, self.truth]
        tab.select(self.on_open, [token], [self.state, self.ready, self.second, *slots, version], **PRIVATE)
        self.ready.select(self.on_ready, [token, self.scene], [*slots, *self.gains, version], **EDIT)
        for trigger in (self.a.input, self.a2.input, self.b.input):
            trigger(self.on_pictures, [token, self.a, self.a2, self.b], [self.truth, version], **EDIT)
        for index, button in enumerate(self.to_slot):
            button.click(
                partial(self.on_painted, index),
                [token, self.canvas],
                [(self.a, self.a2, self.b)[index], self.truth, version],
                **EDIT,
            )
        for index, gain in enumerate(self.gains):
            gain.input(partial(self.on_gain, index), [token, gain], version, **EDIT)
        for name in ("strength", "temperature", "steps", "seed", "renormalise", "t"):
            control = getattr(self, name)
            control.input(partial(self.on_field, name), [token, control], version, **EDIT)
        self.reset.click(self.on_reset, [token], [*self.gains, version], **EDIT)
        self.second.input(self.on_second, [token, self.second, self.scene], version, **EDIT)
        shown = [self.b2, self.state, self.mix, self.heat, self.download, self.saved]
        version.change(
            self.on_version,
            [token],
            shown,
            trigger_mode="always_last",
            show_progress="hidden",
            concurrency_limit=4,
            **PRIVATE,
        )
        self.film.click(self.on_film, [token], self.strip, **PRIVATE)
        self.draw_map.click(self.on_map, [token], self.map, **PRIVATE)
        self.map.pick(self.on_point, [token, self.scene], [*slots, *self.gains, version], **EDIT)
        self.save.click(self.on_save, [token, self.rank], [self.saved, self.download], **PRIVATE)

    @told_while
    def on_open(self, token: str) -> Iterator[dict[Any, Any]]:
        """The tab was opened: load the model once, draw the strip of ready analogies, begin with the first."""
        self.shared.desk(token)
        if not (EMBEDDED / "lorweb").exists():
            yield {
                self.state: views.message("The embedded analogy model is not in this copy of the studio.", "refused")
            }
            return
        job = Job(self.store.model)
        while not job.wait(_PATIENCE):
            yield {self.state: views.message("Loading the analogy model: a few seconds, once…", "busy")}
        job.result()
        names = self.store.names
        if self.sittings.get(token).seen is not None:
            yield {self.state: ""}
            return
        thumbs = [(_image(ready((name,)).a2), _title(name)) for name in names]
        updates = self.show(token, names[_FIRST], 0)
        choices = [(_title(name), name) for name in names]
        yield {self.state: "", self.ready: thumbs, self.second: gr.update(choices=choices), **updates}

    @told
    def on_ready(self, token: str, scene: float | None, event: gr.SelectData) -> dict[Any, Any]:
        """A ready analogy was picked."""
        names, index = self.store.names, event.index
        if not isinstance(index, int) or not 0 <= index < len(names):
            raise LoomError("There is no such analogy", next="pick one of the strip")
        return self.show(token, names[index], int(scene or 0), gains=True)

    @told
    def on_pictures(self, token: str, a: Any, a2: Any, b: Any) -> dict[Any, Any]:
        """A visitor's own pictures."""
        return {self.truth: None, self.version: self.look(token, (a, a2, b), None)}

    @told
    def on_painted(self, index: int, token: str, painted: Any) -> tuple[Any, Any, int]:
        """The painted picture goes into a slot."""
        picture = painted.get("composite") if isinstance(painted, dict) else None
        if not isinstance(picture, Image.Image):
            raise LoomError("Nothing was painted", next="draw something on the canvas first")
        pictures = list(self.sittings.get(token).pictures)
        pictures[index] = _on_white(picture)
        a, a2, b = pictures
        return pictures[index], None, self.look(token, (a, a2, b), None)

    @told
    def on_gain(self, index: int, token: str, value: float) -> int:
        """A basis slider moved."""
        self.shared.desk(token)
        gains = list(self.sittings.get(token).gains)
        gains[index] = min(max(float(value), 0.0), 3.0)
        return self.sittings.change(token, gains=tuple(gains)).version

    @told
    def on_field(self, name: str, token: str, value: Any) -> int:
        """Strength, temperature, steps, seed, the total, or the way between two."""
        self.shared.desk(token)
        if value is None:
            raise LoomError(f"{name.capitalize()} is empty", next="give a number")
        kind = {"steps": int, "seed": int, "renormalise": bool}.get(name, float)
        return self.sittings.change(token, **{name: kind(value)}).version

    @told
    def on_reset(self, token: str) -> list[Any]:
        """All gains back to 1."""
        self.shared.desk(token)
        made = self.sittings.change(token, gains=(1.0,) * _SIZE)
        return [*made.gains, made.version]

    @told
    def on_second(self, token: str, name: str | None, scene: float | None) -> int:
        """The other end of an interpolation."""
        model, sitting = self.store.model(), self.sittings.get(token)
        if not name or name not in TRANSFORMS or sitting.pictures[2] is None:
            return sitting.version
        other = ready((name,), int(scene or 0) + 1)
        seen = model.look(_image(other.a), _image(other.a2), sitting.pictures[2])
        return self.sittings.change(token, other=model.route(seen)).version

    @told_while
    def on_version(self, token: str) -> Iterator[dict[Any, Any]]:
        """Pictures or sliders changed: draw b' step by step, until something newer comes."""
        self.shared.desk(token)
        sitting = self.sittings.get(token)
        if sitting.seen is None:
            yield {self.b2: None, self.mix: views.message("Fill a, a′ and b, or pick a ready analogy."), self.heat: ""}
            return
        drawing = _Drawing(self.store.model(), sitting, self.mixed(sitting))
        job = Job(drawing)
        yield {
            self.mix: _told_mix(drawing.mix),
            self.heat: _heat(drawing.mix),
            self.download: gr.update(visible=False),
            self.saved: "",
        }
        while not job.wait(0.15):
            if drawing.picture is not None:
                done, of, _ = job.progress
                said = views.message(f"Drawing: step {done} of {of}…", "busy")
                yield {self.b2: drawing.picture, self.state: said}
        found = job.result()
        if self.sittings.get(token).version == sitting.version:
            yield {self.b2: found, self.state: _judged(found, sitting)}

    @told_while
    def on_film(self, token: str) -> Iterator[Any]:
        """The way from one edit to the other, frame by frame."""
        self.shared.desk(token)
        sitting = self.sittings.get(token)
        if sitting.seen is None or sitting.other is None:
            raise LoomError("There is no way yet", next="pick an analogy, and then the other edit")
        frames: list[tuple[Picture, str]] = []
        for t in np.linspace(0, 1, _FRAMES):
            mix = self.mixed(replace(sitting, t=float(t)))
            frames.append((_Drawing(self.store.model(), sitting, mix)(), f"{t:.0%}"))
            yield frames

    @told_while
    def on_map(self, token: str) -> Iterator[Any]:
        """Lay out the mixes of many analogies."""
        self.shared.desk(token)
        job = Job(self.store.points)
        while not job.wait(_PATIENCE):
            done, total, _ = job.progress
            yield gr.update(note=f"Looking at analogies: {done} of {total or '?'}…")
        names, mixes = job.result()
        yield gr.update(
            value=_map_payload(names, mixes), note=f"{len(names)} analogies by their mixes (PCA). Click one."
        )

    @told
    def on_point(self, token: str, scene: float | None, event: gr.EventData) -> dict[Any, Any]:
        """A point of the map: its analogy's own pictures."""
        names, _ = self.store.points()
        ids = picked_ids(event, len(names))
        if not ids:
            return {}
        return self.show(token, names[ids[0]], ids[0] % _MAPPED, gains=True)

    @told_while
    def on_save(self, token: str, rank: float) -> Iterator[dict[Any, Any]]:
        """Write the mix as an ordinary LoRA, read it back, offer it."""
        desk, sitting = self.shared.desk(token), self.sittings.get(token)
        if sitting.seen is None:
            raise LoomError("There is no analogy to keep", next="pick one first")
        yield {self.saved: views.message("Writing and reading back…", "busy"), self.download: gr.update(visible=False)}
        adapter = self.store.model().lora(self.mixed(sitting), sitting.strength)
        adapter, kept = _cut(adapter, int(rank or 0))
        folder = Path(tempfile.mkdtemp(prefix="analogy-", dir=desk.exports))
        written = save_adapter(adapter, folder / "analogy.zip")
        count = len(adapter.modules)
        said = f"Saved: rank {adapter.rank}, {count} modules, kept energy {kept:.2%}, read back and compared."
        yield {self.saved: views.message(said, "good"), self.download: gr.update(value=str(written), visible=True)}

    # Doing -----------------------------------------------------------------------------------------------------------

    def show(self, token: str, name: str, scene: int, *, gains: bool = False) -> dict[Any, Any]:
        """Put a ready analogy into the slots; `gains` also sets the sliders back."""
        found = ready((name,), scene)
        a, a2, b, truth = (_image(part) for part in (found.a, found.a2, found.b, found.truth))
        updates: dict[Any, Any] = {self.a: a, self.a2: a2, self.b: b, self.truth: truth}
        if gains:
            self.sittings.change(token, gains=(1.0,) * _SIZE)
            updates |= dict.fromkeys(self.gains, 1.0)
        return {**updates, self.version: self.look(token, (a, a2, b), truth)}

    def look(self, token: str, pictures: Sequence[Picture | None], truth: Picture | None) -> int:
        """Have the model see the pictures, once for all drawings of them."""
        self.shared.desk(token)
        a, a2, b = pictures
        seen = None
        if a is not None and a2 is not None and b is not None:
            seen = self.store.model().look(a, a2, b)
        return self.sittings.change(token, pictures=(a, a2, b), truth=truth, seen=seen).version

    def mixed(self, sitting: Sitting) -> torch.Tensor:
        """The mix that is drawn: routed, moved towards the other, then the gains."""
        assert sitting.seen is not None
        mix = self.store.model().route(sitting.seen, sitting.temperature)
        if sitting.other is not None and sitting.t:
            mix = between(mix, sitting.other, sitting.t)
        return gained(mix, sitting.gains[: mix.shape[-1]], renormalise=sitting.renormalise)


class _Drawing:
    """Draws one b' and shows how far it is."""

    def __init__(self, model: AnalogyModel, sitting: Sitting, mix: torch.Tensor) -> None:
        self.model, self.sitting, self.mix = model, sitting, mix
        self.picture: Picture | None = None

    def __call__(self, on_step: OnStep | None = None) -> Picture:
        """The finished picture; `on_step` hears of every step."""
        sitting = self.sitting
        assert sitting.seen is not None
        step = partial(self._step, on_step)
        return self.model.draw(
            sitting.seen, self.mix, steps=sitting.steps, seed=sitting.seed, strength=sitting.strength, on_step=step
        )

    def _step(self, on_step: OnStep | None, done: int, of: int, picture: Picture) -> None:
        self.picture = picture
        if on_step is not None:
            on_step(done, of, "")


class _ModelStore:
    """The embedded model and the mixes of many analogies, made once and shared: they tell nothing of a visitor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._model: AnalogyModel | None = None
        self._points: tuple[list[str], Any] | None = None
        self.names: tuple[str, ...] = ()

    def model(self, on_step: OnStep | None = None) -> AnalogyModel:
        """The model; the first caller loads it. `on_step` is never called: loading tells nothing."""
        with self._lock:
            if self._model is None:
                self._model = load_embedded()
                self.names = catalogue()
            return self._model

    def points(self, on_step: OnStep | None = None) -> tuple[list[str], Any]:
        """Transform names and mean mixes (n, N) of a few analogies of every transform in the catalogue."""
        model = self.model()
        with self._lock:
            if self._points is None:
                tasks = [(name, seed) for name in self.names for seed in range(_MAPPED)]
                mixes = []
                for done, (name, seed) in enumerate(tasks):
                    found = ready((name,), seed)
                    seen = model.look(_image(found.a), _image(found.a2), _image(found.b))
                    mixes.append(model.route(seen).mean(0).numpy())
                    if on_step is not None:
                        on_step(done + 1, len(tasks), name)
                self._points = [name for name, _ in tasks], np.stack(mixes)
            return self._points


def _slot(label: str, elem_id: str) -> gr.Image:
    return gr.Image(label=label, sources=["upload", "clipboard"], type="pil", height=172, elem_id=elem_id, buttons=[])


def _image(pixels: torch.Tensor) -> Picture:
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def _on_white(picture: Picture) -> Picture:
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture.convert("RGBA"))
    return white.convert("RGB")


def _title(name: str) -> str:
    return name.replace("_", " ")


def _judged(found: Picture, sitting: Sitting) -> str:
    if sitting.truth is None:
        return ""
    pair = [
        torch.from_numpy(np.array(p.convert("RGB").resize(found.size))).permute(2, 0, 1)[None] / 255
        for p in (found, sitting.truth)
    ]
    return views.message(f"{float(psnr(*pair)):.1f} dB from what the world says (PSNR; above 25 is close)", "line")


def _told_mix(mix: torch.Tensor) -> str:
    """The mix in words: how many adapters really take part, and the strongest."""
    mean = mix.abs().mean(0)
    top = mean.argsort(descending=True)[:4].tolist()
    share = mean / mean.sum().clamp_min(1e-9)
    named = ", ".join(f"{i + 1} ({share[i]:.0%})" for i in top)
    return views.message(
        f"About {float(effective_size(mix).mean()):.1f} of {mix.shape[-1]} adapters take part in a layer. "
        f"Strongest: {named}.",
        "line",
    )


def _heat(mix: torch.Tensor) -> str:
    """Layers as rows, adapters as columns, darker for a larger share."""
    most = float(mix.abs().max().clamp_min(1e-9))
    head = "".join(f"<th scope='col'>{i + 1}</th>" for i in range(mix.shape[-1]))
    rows = "".join(
        f"<tr><th scope='row'>{n + 1}</th>"
        + "".join(f"<td style='--heat:{abs(v) / most:.2f}' title='{v:.3f}'></td>" for v in row)
        + "</tr>"
        for n, row in enumerate(mix.tolist())
    )
    caption = "<caption>Share of each adapter (columns) in each layer (rows)</caption>"
    return f"<div class='scroll'><table class='heat'>{caption}<tr><th></th>{head}</tr>{rows}</table></div>"


def _map_payload(names: Sequence[str], mixes: Any) -> dict[str, Any]:
    """Points for the map component, with words of their own."""
    places = pca(np.asarray(mixes, np.float32))
    families = sorted({TRANSFORMS[name].family for name in names})
    kinds = list(dict.fromkeys(names))
    family = np.array([families.index(TRANSFORMS[name].family) for name in names])
    kind = np.array([kinds.index(name) for name in names])
    flat = np.zeros(len(names))
    group: Mapping[str, Any] = {"names": families, "index": pack(family, "u2")}
    return {
        "version": "mixes", "frame": "mixes", "points": len(names), "total": len(names),
        "x": pack(places[:, 0], "f4"), "y": pack(places[:, 1], "f4"),
        "energy": pack(flat + 1, "f4"), "module_energy": pack(flat, "f4"), "rank": pack(flat, "u2"),
        "near_source": pack(flat + 65535, "u2"), "near_rank": pack(flat, "u2"), "near_cosine": pack(flat, "f4"),
        "source": group, "layer": group, "type": group,
        "module": {"names": [_title(k) for k in kinds], "index": pack(kind, "u2")},
        "tips": [f"{_title(name)} ({TRANSFORMS[name].family})" for name in names],
    }  # fmt: skip


def _cut(adapter: Any, rank: int) -> tuple[Any, float]:
    """The adapter at a smaller rank and the energy it keeps; 0 leaves it."""
    if not rank:
        return adapter, 1.0
    modules, kept, whole = {}, 0.0, 0.0
    for name, module in adapter.modules.items():
        a, b = (torch.from_numpy(np.ascontiguousarray(factor)) for factor in module)
        found = spectrum(Pair(a, b).scaled(module.scaling))
        pair = found.pair(rank).single()
        energy = float(found.S.square().sum())
        kept, whole = kept + float(found.kept(rank)) * energy, whole + energy
        modules[name] = _held(module, pair)
    return replace(adapter, modules=modules), kept / whole if whole else 1.0


def _held(module: Any, pair: Pair) -> Any:
    return in_memory_module(module.name, pair.A.numpy(), pair.B.numpy(), kind=module.kind, kernel=module.kernel)
