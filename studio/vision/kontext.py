"""FLUX.1-Kontext with a released LoRWeB basis, by the stock pipeline: no custom blocks, one LoRA rewritten per request.

The three pictures become the grid [a a'; b b] that the base sees as context; it draws [a a'; b b'] and the lower right
quarter is kept. Tiles have a's shape; b' is given back in b's.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from studio.core.errors import LoomError
from studio.core.late import torch
from studio.vision.analogist import OnStep
from studio.vision.attached import Attached
from studio.vision.encoders import ImageEncoder, Tiles, composite
from studio.vision.lorweb import Lorweb
from studio.vision.pipeline import check_drawing

STEPS = 28
GUIDANCE = 2.5
SIDE = 512
_SIDES = (64, 1024)
_MAX_PROMPT = 4000
_MAX_ASPECT = 4.0


@dataclass(frozen=True, slots=True)
class Prompting:
    """What FLUX is told besides the pictures: the edit in words, guidance, and the pixels of a tile's side.

    Tiles cover `side` squared pixels whatever their shape. Raises `LoomError` for values out of range.
    """

    prompt: str = ""
    guidance: float = GUIDANCE
    side: int = SIDE

    def __post_init__(self) -> None:
        if len(self.prompt) > _MAX_PROMPT:
            raise LoomError(f"The prompt has {len(self.prompt)} characters", f"the limit is {_MAX_PROMPT}")
        if not (math.isfinite(self.guidance) and 0 <= self.guidance <= 30):
            raise LoomError(f"Guidance {self.guidance} is out of range", next="choose 0 to 30; 2.5 is usual")
        if not _SIDES[0] <= self.side <= _SIDES[1]:
            raise LoomError(f"Tiles of {self.side} pixels cannot be", next=f"choose {_SIDES[0]} to {_SIDES[1]}")


@dataclass(frozen=True, slots=True, eq=False)
class KontextSeen:
    """The grid as context, the query of the router, and the size that b' is given back in."""

    grid: Image.Image
    query: torch.Tensor
    size: tuple[int, int]


@dataclass(eq=False)
class KontextModel:
    """A FLUX.1-Kontext pipeline, a basis attached to it, and the encoder that routes; see `open_kontext`.

    The basis is written into the one pipeline, so drawings of several threads wait for each other.
    """

    pipeline: Any
    attached: Attached
    encoder: ImageEncoder
    prompting: Prompting = field(default_factory=Prompting)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _told: dict[str, Any] = field(default_factory=dict)

    @property
    def basis(self) -> Lorweb:
        """The basis that is mixed."""
        return self.attached.basis

    @property
    def usual_steps(self) -> int:
        """How many steps to take where nobody says."""
        return STEPS

    def told(self, prompting: Prompting) -> KontextModel:
        """The same model with another prompt, guidance or size; weights and lock are shared."""
        return replace(self, prompting=prompting)

    def look(self, a: Image.Image, a2: Image.Image, b: Image.Image) -> KontextSeen:
        """Make the grid, and encode the pictures before they become one."""
        unit = 2 * int(self.pipeline.vae_scale_factor)
        tile = tile_size(a.size, self.prompting.side, unit)
        tiles: Tiles = tuple(p.convert("RGB").resize(tile, Image.Resampling.BICUBIC) for p in (a, a2, b))  # type: ignore[assignment]
        query = self.encoder.query(self.basis.config.query_mode, tiles)
        return KontextSeen(composite(tiles, corner=tiles[2]), query, tile_size(b.size, self.prompting.side, 1))

    def route(self, seen: KontextSeen, temperature: float = 1.0) -> torch.Tensor:
        """The mix for pictures already looked at, (layers, N)."""
        with torch.no_grad():
            return self.basis.coefficients(seen.query, temperature)

    def blend(self, first: KontextSeen, second: KontextSeen, t: float) -> KontextSeen:
        """The example pictures a part t of the way from one to another; b is the first's."""
        other = second.grid if second.grid.size == first.grid.size else second.grid.resize(first.grid.size)
        query = (1 - t) * first.query + t * second.query
        return KontextSeen(Image.blend(first.grid, other, t), query, first.size)

    def draw(
        self,
        seen: KontextSeen,
        mix: torch.Tensor,
        *,
        steps: int = STEPS,
        seed: int = 0,
        strength: float = 1.0,
        on_step: OnStep | None = None,
    ) -> Image.Image:
        """b' for a mix (layers, N). `on_step` gets no picture: decoding each step would cost as much as the step."""
        check_drawing(steps, seed, strength)
        with self._lock:
            self.attached.write(mix, strength)
            drawn = self.pipeline(**self.inputs(seen, steps, seed), callback_on_step_end=_Heard(on_step, steps))
        grid: Image.Image = drawn.images[0]
        corner = grid.crop((grid.width // 2, grid.height // 2, grid.width, grid.height))
        return corner.resize(seen.size, Image.Resampling.BICUBIC) if corner.size != seen.size else corner

    def inputs(self, seen: KontextSeen, steps: int, seed: int) -> dict[str, Any]:
        """Arguments of the stock pipeline for one drawing."""
        return {
            "image": seen.grid,
            **self._text(self.prompting.prompt),
            "guidance_scale": self.prompting.guidance,
            "num_inference_steps": steps,
            "generator": torch.Generator("cpu").manual_seed(seed),
            "width": seen.grid.width,
            "height": seen.grid.height,
            "max_area": seen.grid.width * seen.grid.height,
            "_auto_resize": False,
        }

    def _text(self, prompt: str) -> dict[str, Any]:
        """The prompt's embeddings; the last one's are kept, since sliders move far oftener than words."""
        if self._told.get("prompt") != prompt:
            with torch.no_grad():  # inference mode would break accelerate's moving of parameters
                embeds, pooled, _ = self.pipeline.encode_prompt(prompt, None)
            self._told.update(prompt=prompt, embeds={"prompt_embeds": embeds, "pooled_prompt_embeds": pooled})
        found: dict[str, Any] = self._told["embeds"]
        return found


class _Heard:
    """Tells how far the pipeline is; whoever listens may raise `Cancelled`."""

    def __init__(self, on_step: OnStep | None, steps: int) -> None:
        self._on_step, self._steps = on_step, steps

    def __call__(self, pipeline: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Called by diffusers after each step."""
        if self._on_step is not None:
            self._on_step(step + 1, self._steps, None)
        return {}


def tile_size(size: tuple[int, int], side: int, unit: int) -> tuple[int, int]:
    """Width and height of about `side` squared pixels in the shape of `size`, in multiples of `unit`.

    Raises `LoomError` for pictures more than four times as long as wide.
    """
    aspect = size[0] / size[1]
    if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
        raise LoomError(f"A picture of {size[0]} x {size[1]} is too narrow", next="crop it to at most 4 to 1")
    width, height = side * math.sqrt(aspect), side / math.sqrt(aspect)
    return max(unit, round(width / unit) * unit), max(unit, round(height / unit) * unit)
