"""Pixels moved."""

from __future__ import annotations

import math

from studio.core.late import torch
from studio.vision.edits.transform import Transform
from studio.vision.edits.vocabulary import between, either, maps, pixelwise, sample, xy
from studio.vision.scenes import length


def _flip_h(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return image.flip(-1)


def _flip_v(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return image.flip(-2)


def _mirror_half(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    left = image[..., : image.shape[-1] // 2]
    return torch.cat([left, left.flip(-1)], -1)


def _mirror_top(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    top = image[..., : image.shape[-2] // 2, :]
    return torch.cat([top, top.flip(-2)], -2)


def _rot90(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return torch.where(pixelwise(p[:, 0]) < 0.5, image.rot90(1, (-2, -1)), image.rot90(-1, (-2, -1)))


def _zoom(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = xy(image)
    scale = maps(either(p[:, 0], (0.5, 0.8), (1.3, 1.7)))
    return sample(image, (x - 0.5) * scale + 0.5, (y - 0.5) * scale + 0.5)


def _roll(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    half = image.shape[-1] // 2
    return torch.where(pixelwise(p[:, 0]) < 0.5, image.roll(half, -1), image.roll(half, -2))


def _wave(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = xy(image)
    return sample(image, x + 0.06 * torch.sin(y * maps(between(p[:, 0], 1.5, 4.0)) * 2 * math.pi), y)


def _swirl(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = xy(image)
    dx, dy = x - 0.5, y - 0.5
    angle = maps(between(p[:, 0], 1.0, 2.6)) * (1 - length(dx, dy) * 2).clamp(0, 1)
    return sample(image, dx * angle.cos() + dy * angle.sin() + 0.5, -dx * angle.sin() + dy * angle.cos() + 0.5)


def _tile(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = xy(image)
    copies = torch.where(maps(p[:, 0]) < 0.5, 2.0, 3.0)
    return sample(image, (x * copies) % 1, (y * copies) % 1, padding="border")


GEOMETRY = (
    Transform("flip_h", "geometry", _flip_h, 0, "none", mixes=True),
    Transform("flip_v", "geometry", _flip_v, 0, "none", mixes=True),
    Transform("mirror_half", "geometry", _mirror_half, 0, "none"),
    Transform("mirror_top", "geometry", _mirror_top, 0, "none"),
    Transform("rot90", "geometry", _rot90, 1, "choice"),
    Transform("zoom", "geometry", _zoom, 1, "linear", mixes=True),
    Transform("roll", "geometry", _roll, 1, "choice"),
    Transform("wave", "geometry", _wave, 1, "linear"),
    Transform("swirl", "geometry", _swirl, 1, "linear"),
    Transform("tile", "geometry", _tile, 1, "choice"),
)
