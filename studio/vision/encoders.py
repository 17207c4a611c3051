"""The frozen image encoder that a LoRWeB router is asked with: CLIP ViT-L/14 or SigLIP, as the configuration names it.

A query is made of embeddings that are not normalised. Modes that look at one picture at a time
encode it on its own; the others look at the 2 x 2 composite or a part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from studio.core.errors import LoomError, NotAtHand, Refused
from studio.core.late import torch, transformers
from studio.vision.lorweb import QueryMode

Tiles = tuple[Image.Image, Image.Image, Image.Image]  # a, a', b, all of one size

# How many embeddings a query holds in each mode; the modes over patch tokens are not among them.
_PARTS: dict[str, int] = {
    "cat-aa'b": 3, "ca'-ca": 1, "ca'-ca+cb": 1, "caa'": 1, "caa'b": 1, "caa'bb'": 1, "aa'bb'": 1,
}  # fmt: skip
_POOLED = {"clip": "image_embeds", "clip_vision_model": "image_embeds"}  # of the others the pooler's output
_CLASSES = {
    "clip": "CLIPVisionModelWithProjection",
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "siglip2": "Siglip2VisionModel",
    "siglip2_vision_model": "Siglip2VisionModel",
}


@dataclass(frozen=True, slots=True, eq=False)
class ImageEncoder:
    """A vision tower with its preprocessing; `output` is the field of its answer that holds the pooled vector."""

    model: Any
    processor: Any
    output: str

    @property
    def width(self) -> int:
        """The width of an embedding."""
        config = self.model.config
        return int(config.projection_dim if self.output == "image_embeds" else config.hidden_size)

    def embed(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Embeddings (pictures, width), float32, not normalised."""
        inputs = self.processor(images=[picture.convert("RGB") for picture in pictures], return_tensors="pt")
        weight = next(self.model.parameters())
        given = {
            key: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for key, value in inputs.items()
        }
        with torch.inference_mode():
            found: torch.Tensor = self.model(**given)[self.output]
        return found.float().cpu().clone()

    def query(self, mode: QueryMode, tiles: Tiles) -> torch.Tensor:
        """What the router is asked, (Q,), in one of the released modes."""
        if mode == "cat-aa'b":
            return self.embed(tiles).flatten()
        if mode in ("ca'-ca", "ca'-ca+cb"):
            of_a, of_a2, of_b = self.embed(tiles)
            moved: torch.Tensor = of_a2 - of_a
            return moved + of_b if mode == "ca'-ca+cb" else moved
        whole = composite(tiles, corner=None if mode == "caa'b" else tiles[2])
        part = whole.crop((0, 0, whole.width, whole.height // 2)) if mode == "caa'" else whole
        return self.embed([part])[0]

    def check(self, mode: QueryMode, width: int) -> None:
        """Raise `Refused` where this encoder cannot ask a router of query width `width` in this mode."""
        check_mode(mode)
        if self.width * _PARTS[mode] != width:
            why = f"it gives {_PARTS[mode]} x {self.width} numbers, the basis asks for {width}"
            raise Refused("The image encoder does not belong to this basis", why, "choose the one its config names")


def check_mode(mode: QueryMode) -> None:
    """Raise `Refused` for a mode that no encoder of single pictures can ask in."""
    if mode == "relation-aa'b":
        raise Refused(
            "This basis is the studio's own kind", "its encoder sees two pictures at once", "leave out the base"
        )
    if mode not in _PARTS:
        raise Refused(f"The query mode {mode!r} cannot be made", "how it pools patch tokens is not published")


def composite(tiles: Tiles, corner: Image.Image | None) -> Image.Image:
    """The grid [a a'; b corner] of tiles of one size; without a corner that quarter is black."""
    a, a2, b = tiles
    grid = Image.new("RGB", (2 * a.width, 2 * a.height))
    for picture, place in ((a, (0, 0)), (a2, (a.width, 0)), (b, (0, a.height)), (corner, a.size)):
        if picture is not None:
            grid.paste(picture, place)
    return grid


def open_encoder(source: str) -> ImageEncoder:
    """Open an encoder by folder or Hub id, from a vision tower alone or out of the whole model.

    Raises `NotAtHand` for what cannot be reached or read, `Refused` for another kind of model or one with weights
    missing.
    """
    try:
        kind = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
        if kind not in _CLASSES:
            raise Refused(f"{source} is a {kind}, no image encoder of LoRWeB", next="give CLIP ViT-L/14 or SigLIP2")
        processor = transformers.AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        model, report = getattr(transformers, _CLASSES[kind]).from_pretrained(source, output_loading_info=True)
    except LoomError:
        raise
    except Exception as error:  # the libraries raise many types for a folder they cannot read
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise NotAtHand(f"The image encoder {source} cannot be loaded", reason, "give its folder") from error
    if report["missing_keys"]:
        raise Refused(f"{source} lacks weights of its encoder", f"such as {min(map(str, report['missing_keys']))}")
    return ImageEncoder(model.eval().requires_grad_(False), processor, _POOLED.get(kind, "pooler_output"))
