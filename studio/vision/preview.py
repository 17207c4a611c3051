"""The image preview: one prompt and one noise, drawn by the base, every adapter alone, and the merge; or over a grid.

Any diffusers text-to-image pipeline is a base: Stable Diffusion, SDXL, FLUX and others. It is loaded once; adapters
are in it only while their picture is drawn.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from studio.core.adapter import Adapter
from studio.core.errors import Cancelled, LoomError, NotAtHand, Refused
from studio.core.files import local_path
from studio.core.hub_ids import looks_like_id
from studio.core.late import diffusers, torch
from studio.vision.injected import Placed, injected, layers_of, place

Stop = Callable[[], bool]
_MAX_INDEX = 1 << 20
_MAX_PIXELS = 2048


@dataclass(frozen=True, slots=True)
class Wish:
    """What to draw: the same for every picture, so that only the adapters differ.

    `size` in pixels, both sides; 0 is the base's own. Raises `LoomError` for values out of range.
    """

    prompt: str
    steps: int = 20
    guidance: float = 5.0
    seed: int = 0
    size: int = 0

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise LoomError("The prompt is empty", next="say what to draw")
        if len(self.prompt) > 4000:
            raise LoomError(f"The prompt has {len(self.prompt)} characters", next="give at most 4000")
        if not 1 <= self.steps <= 150 or not 0 <= self.guidance <= 30 or not 0 <= self.seed < 1 << 63:
            raise LoomError("Steps, guidance or seed are out of range", next="1 to 150 steps, guidance 0 to 30")
        if self.size and not (16 <= self.size <= _MAX_PIXELS and self.size % 16 == 0):
            raise LoomError(f"{self.size} pixels cannot be drawn", next=f"a multiple of 16 up to {_MAX_PIXELS}")


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """One picture to draw: its caption, the adapters in it and their weights."""

    title: str
    adapters: tuple[tuple[Adapter, float], ...] = ()


@dataclass(eq=False)
class ImageBase:
    """A pipeline, loaded once, and its layers by the studio's name; one drawing at a time."""

    title: str
    pipeline: Any
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _placed: dict[int, tuple[Adapter, Placed]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layers: Mapping[str, Any] = layers_of(self.pipeline)

    def placed(self, adapter: Adapter) -> Placed:
        """The adapter's factors beside this base's layers; kept for the last few adapters asked for."""
        held = self._placed.pop(id(adapter), None)
        if held is None or held[0] is not adapter:
            held = (adapter, place(adapter, self.layers))
        self._placed[id(adapter)] = held
        while len(self._placed) > 24:
            self._placed.pop(next(iter(self._placed)))
        return held[1]

    def draw(self, wish: Wish, variant: Variant, *, stop: Stop | None = None, **given: Any) -> Image.Image:
        """One picture. `given` goes to the pipeline; `stop` true ends it with `Cancelled` at the next step."""
        with self._lock:
            placed = [(self.placed(adapter), weight) for adapter, weight in variant.adapters]
            with injected(placed):
                found: Image.Image = self.pipeline(**self._inputs(wish), **given, **_watched(stop)).images[0]
        return found

    def side_by_side(
        self, wish: Wish, variants: Sequence[Variant], *, stop: Stop | None = None
    ) -> Iterator[tuple[Variant, Image.Image]]:
        """All pictures, one after the other, from the same noise."""
        for variant in variants:
            yield variant, self.draw(wish, variant, stop=stop)

    def _inputs(self, wish: Wish) -> dict[str, Any]:
        size = {"width": wish.size, "height": wish.size} if wish.size else {}
        return {
            "prompt": wish.prompt,
            "num_inference_steps": wish.steps,
            "guidance_scale": wish.guidance,
            "generator": torch.Generator("cpu").manual_seed(wish.seed),
            **size,
        }


def columns(sources: Sequence[tuple[Adapter, float]], merge: Adapter | None) -> list[Variant]:
    """The base, every source alone at 1, and the merge."""
    found = [Variant("base"), *(Variant(adapter.name, ((adapter, 1.0),)) for adapter, _ in sources)]
    return found if merge is None else [*found, Variant("merge", ((merge, 1.0),))]


def grid(first: Adapter, second: Adapter, across: Sequence[float], down: Sequence[float]) -> list[list[Variant]]:
    """Rows of pictures over two weights, which are their captions: the first adapter's across, the second's down."""
    return [[Variant(f"{x:.3g} · {y:.3g}", ((first, x), (second, y))) for x in across] for y in down]


def sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Pictures of one size as one."""
    width, height = rows[0][0].size
    made = Image.new("RGB", (width * len(rows[0]), height * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            made.paste(picture, (x * width, y * height))
    return made


def open_image_base(source: str, *, device: str = "", offload: bool = False) -> ImageBase:
    """Open a diffusers text-to-image pipeline by folder or Hub id, on the GPU where there is one.

    Weights are float32 on a CPU, float16 (bfloat16 for transformers) elsewhere. No code of a repository is run. Raises
    `NotAtHand` for what cannot be reached or loaded, and `Refused` for a folder that holds something else.
    """
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = _kind(source)
    dtype = torch.float32 if where == "cpu" else torch.bfloat16 if "Flux" in kind else torch.float16
    folder = local_path(source)
    try:
        pipeline = diffusers.AutoPipelineForText2Image.from_pretrained(
            str(folder) if folder.is_dir() else source, dtype=dtype
        )
    except Exception as error:  # gated, offline, or broken: the libraries' types are many
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise NotAtHand(f"{source} cannot be opened", reason, "give a folder in diffusers' layout") from error
    pipeline.set_progress_bar_config(disable=True)
    if offload:
        pipeline.enable_model_cpu_offload(device=where)
    else:
        pipeline.to(where)
    return ImageBase(Path(source).name, pipeline)


def _kind(source: str) -> str:
    """The pipeline's class as the folder names it; empty for a Hub id."""
    folder = local_path(source)
    if not folder.is_dir():
        if not looks_like_id(source):
            raise NotAtHand(f"There is no base {source}", next="give a folder in diffusers' layout, or a Hub id")
        return "Flux" if "flux" in source.lower() else ""
    index = folder / "model_index.json"
    if not index.is_file() or index.stat().st_size > _MAX_INDEX:
        raise Refused(f"{folder.name} is not a diffusers pipeline", "it has no model_index.json")
    try:
        return str(json.loads(index.read_text(encoding="utf-8"))["_class_name"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"{folder.name} has no readable model_index.json", str(error)) from error


def _watched(stop: Stop | None) -> dict[str, Any]:
    return {} if stop is None else {"callback_on_step_end": _Watch(stop)}


class _Watch:
    """Ends a drawing that nobody waits for."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def __call__(self, pipeline: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Called by diffusers after each step."""
        if self._stop():
            raise Cancelled("Something newer is drawn")
        return {}
