"""Edits done to a part of the picture alone: more kinds of edit for training, none of which any split asks for.

Four regions times the colour edits and filters that are trained on. What comes near another edit of the world is left
out, so that held-out transforms stay held out: grey around the objects is `colour_pop`, inverted lights are `solarize`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from studio.core.late import torch
from studio.vision.edits.transform import Transform
from studio.vision.edits.vocabulary import luminance
from studio.vision.scenes import Picture, blend
from studio.vision.transforms import TRANSFORMS

Opacity = Callable[[Picture], "torch.Tensor"]
TAKEN: Final = frozenset(
    {
        "object:grayscale",
        "object:invert",
        "background:grayscale",
        "background:saturate",
        "background:invert",
        "background:tint",
        "background:brightness",
        "background:blur",
        "light:invert",
        "light:grayscale",
        "dark:grayscale",
    }
)
"""Near a transform that has a name of its own."""


def _object(picture: Picture) -> torch.Tensor:
    return picture.mask


def _background(picture: Picture) -> torch.Tensor:
    return 1 - picture.mask


def _light(picture: Picture) -> torch.Tensor:
    light = luminance(picture.image)[:, 0]
    return ((light - light.mean((1, 2), keepdim=True)) * 25).sigmoid()  # of the picture's own middle: most are bright


def _dark(picture: Picture) -> torch.Tensor:
    return 1 - _light(picture)


REGIONS: Final[Mapping[str, Opacity]] = MappingProxyType(
    {"object": _object, "background": _background, "light": _light, "dark": _dark}
)


@dataclass(frozen=True, slots=True)
class Within:
    """The edit of a transform that reads pixels, seen where the region's opacity is."""

    opacity: Opacity
    done: Transform

    def __call__(self, picture: Picture, p: torch.Tensor) -> torch.Tensor:
        """The picture outside the region, the edited one inside."""
        return blend(picture.image, self.done.on_pixels(picture.image, p), self.opacity(picture))


def regional(names: Iterable[str]) -> Mapping[str, Transform]:
    """The transforms REGION:NAME of those colour edits and filters among `names` that are not taken."""
    found = {}
    for name in names:
        done = TRANSFORMS[name]
        for region, opacity in REGIONS.items():
            key = f"{region}:{name}"
            if done.family in ("colour", "filter") and key not in TAKEN:
                found[key] = Transform(key, "layer", Within(opacity, done), done.parameters, done.first, "layers")
    return MappingProxyType(found)
