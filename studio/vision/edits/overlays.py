"""Things laid over the picture."""

from __future__ import annotations

import math

from studio.core.late import torch
from studio.vision.edits.transform import Transform
from studio.vision.edits.vocabulary import between, maps, paint, pixelwise, rgb, stars, step, white, xy
from studio.vision.scenes import SIDE, blend, coordinates, length


def _border(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = xy(image)
    inset = torch.minimum(torch.minimum(x, 1 - x), torch.minimum(y, 1 - y))
    return blend(image, paint(p[:, 0]), step(maps(between(p[:, 1], 0.05, 0.14)) - inset))


def _stripes(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = xy(image)
    angle, turns = maps(p[:, 1] * math.pi), maps(between(p[:, 2], 4, 7.5)) * 2 * math.pi
    wave = torch.tanh(3 * torch.sin((x * angle.cos() + y * angle.sin()) * turns))
    return blend(image, paint(p[:, 0]), (0.5 + 0.5 * wave) * 0.75)


def _dots(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = xy(image)
    f = maps(between(p[:, 1], 3.5, 6.5))
    cell_x, cell_y = ((x - 0.5) * f + 0.5) % 1 - 0.5, ((y - 0.5) * f + 0.5) % 1 - 0.5
    return blend(image, paint(p[:, 0]), ((0.27 - length(cell_x, cell_y)) * SIDE / f + 0.5).clamp(0, 1) * 0.9)


def _grid_lines(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = xy(image)
    f = maps(between(p[:, 1], 3.5, 6.5))
    cell = torch.minimum((((x - 0.5) * f + 0.5) % 1 - 0.5).abs(), (((y - 0.5) * f + 0.5) % 1 - 0.5).abs())
    return blend(image, paint(p[:, 0]), ((0.09 - cell) * SIDE / f + 0.5).clamp(0, 1) * 0.9)


def _vignette(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = xy(image)
    shade = ((length(x - 0.5, y - 0.5) - 0.22) * 2.4).clamp(0, 1)
    return image * (1 - maps(between(p[:, 0], 0.6, 1.0)) * shade)[:, None]


def _spotlight(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = xy(image)
    outside = length(x - 0.5, y - 0.5) - maps(between(p[:, 1], 0.26, 0.42))
    return blend(image, paint(p[:, 0], 0.7, 0.35), step(outside))


def _snow(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    flakes = stars(image.device, 60, seed=5)
    falling = (torch.arange(60, device=image.device)[None] < between(p[:, 0], 18, 60)[:, None]).float()
    return blend(image * 0.92 + 0.05, white(image), torch.einsum("bn,nhw->bhw", falling, flakes).clamp(0, 1))


def _night(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    dark = image * pixelwise(between(p[:, 0], 0.25, 0.5)) * rgb(image, 0.75, 0.85, 1.3) + rgb(image, 0.0, 0.01, 0.08)
    _, y = coordinates(image.device)
    sky = (stars(image.device, 22, seed=9).sum(0) * (y < 0.5)).clamp(0, 1)
    return blend(dark, white(image) * 0.95, sky.expand(image.shape[0], -1, -1))


def _sunset(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    _, y = xy(image)
    return blend(image, paint(between(p[:, 0], -0.12, 0.14), 0.85, 1.0), (1 - y) ** 1.3 * 0.8)


def _letterbox(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    _, y = xy(image)
    return blend(image, white(image) * 0.02, step(maps(between(p[:, 0], 0.1, 0.26)) - torch.minimum(y, 1 - y)))


def _badge(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = xy(image)
    corner = (p[:, 1].clamp(0, 0.999) * 4).long()
    away = length(x - maps(0.2 + 0.6 * (corner % 2)), y - maps(0.2 + 0.6 * (corner // 2)))
    return blend(blend(image, white(image), step(0.155 - away)), paint(p[:, 0]), step(0.12 - away))


def _scanlines(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    _, y = xy(image)
    dark = 0.5 + 0.5 * torch.sin(y * 2 * math.pi * 16)
    return image * (1 - maps(between(p[:, 0], 0.45, 0.8)) * dark)[:, None]


OVERLAYS = (
    Transform("border", "overlay", _border, 2, "cyclic", mixes=True),
    Transform("stripes", "overlay", _stripes, 3, "cyclic", mixes=True),
    Transform("dots", "overlay", _dots, 2, "cyclic", mixes=True),
    Transform("grid_lines", "overlay", _grid_lines, 2, "cyclic"),
    Transform("vignette", "overlay", _vignette, 1, "linear", mixes=True),
    Transform("spotlight", "overlay", _spotlight, 2, "cyclic"),
    Transform("snow", "overlay", _snow, 1, "linear", mixes=True),
    Transform("night", "overlay", _night, 1, "linear", mixes=True),
    Transform("sunset", "overlay", _sunset, 1, "linear"),
    Transform("letterbox", "overlay", _letterbox, 1, "linear", mixes=True),
    Transform("badge", "overlay", _badge, 2, "cyclic", mixes=True),
    Transform("scanlines", "overlay", _scanlines, 1, "linear"),
)
