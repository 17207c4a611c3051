"""Edits of a pixel by its neighbours."""

from __future__ import annotations

import math

from studio.core.late import torch
from studio.vision.edits.transform import Transform
from studio.vision.edits.vocabulary import between, gaussian, luminance, maps, paint, pixelwise, sample, slopes, xy


def _blur(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return gaussian(image, between(p[:, 0], 1.2, 3.2))


def _sharpen(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    soft = gaussian(image, torch.full_like(p[:, 0], 1.6))
    return image + (image - soft) * pixelwise(between(p[:, 0], 1.5, 4.0))


def _pixelate(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    fine, coarse = (
        torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(image, block), scale_factor=block)
        for block in (image.shape[-1] // 16, image.shape[-1] // 8)
    )
    return torch.where(pixelwise(p[:, 0]) < 0.5, fine, coarse)


def _sketch(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    ink = slopes(luminance(image)) * pixelwise(between(p[:, 0], 2.2, 5.0))
    return (1 - ink).clamp(0, 1).expand_as(image)


def _neon_edges(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    edges = slopes(image).amax(1, keepdim=True) * 3.2
    return (edges * paint(p[:, 0], 0.55, 1.0)[:, :, None, None]).clamp(0, 1) + image * 0.12


def _emboss(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    angle, reach = p[:, 0] * 2 * math.pi, 1.3 / image.shape[-1]
    x, y = xy(image)
    dx, dy = maps(reach * angle.cos()), maps(reach * angle.sin())
    relief = luminance(sample(image, x + dx, y + dy) - sample(image, x - dx, y - dy))
    return 0.5 + relief.expand_as(image) * 1.4


def _motion_blur(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    angle, reach = p[:, 0] * math.pi, between(p[:, 1], 0.06, 0.14)
    x, y = xy(image)
    dx, dy = maps(reach * angle.cos()), maps(reach * angle.sin())
    return torch.stack([sample(image, x + t * dx, y + t * dy) for t in torch.linspace(-1, 1, 9).tolist()]).mean(0)


def _halftone(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = xy(image)
    turns = maps(between(p[:, 0], 9, 15)) * 2 * math.pi
    screen = torch.cos(x * turns) * torch.cos(y * turns)
    return ((luminance(image)[:, 0] - 0.5 + screen * 0.38) * 9).sigmoid()[:, None].expand_as(image)


FILTERS = (
    Transform("blur", "filter", _blur, 1, "linear", mixes=True),
    Transform("sharpen", "filter", _sharpen, 1, "linear"),
    Transform("pixelate", "filter", _pixelate, 1, "choice", mixes=True),
    Transform("sketch", "filter", _sketch, 1, "linear", mixes=True),
    Transform("neon_edges", "filter", _neon_edges, 1, "cyclic"),
    Transform("emboss", "filter", _emboss, 1, "cyclic"),
    Transform("motion_blur", "filter", _motion_blur, 2, "cyclic"),
    Transform("halftone", "filter", _halftone, 1, "linear", mixes=True),
)
