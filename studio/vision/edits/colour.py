"""Edits of every pixel's colour by itself."""

from __future__ import annotations

import math

from studio.core.late import torch
from studio.vision.edits.transform import Transform
from studio.vision.edits.vocabulary import between, either, luminance, mix, paint, pixelwise, rgb


def _hue_shift(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    angle = between(p[:, 0], 0.16, 0.84) * 2 * math.pi
    c, s, third, root = angle.cos(), angle.sin(), 1 / 3, math.sqrt(1 / 3)
    same, before, after = c + (1 - c) * third, third * (1 - c) - root * s, third * (1 - c) + root * s
    rows = [torch.stack(row, -1) for row in ((same, before, after), (after, same, before), (before, after, same))]
    return torch.einsum("bij,bjhw->bihw", torch.stack(rows, -2), image)


def _brightness(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return image * pixelwise(either(p[:, 0], (0.35, 0.7), (1.35, 1.9)))


def _contrast(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return (image - 0.5) * pixelwise(either(p[:, 0], (0.25, 0.6), (1.6, 2.6))) + 0.5


def _gamma(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return image.clamp(1e-3, 1) ** pixelwise(either(p[:, 0], (0.3, 0.6), (1.7, 3.2)))


def _invert(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return mix(image, 1 - image, between(p[:, 0], 0.75, 1))


def _grayscale(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return mix(image, luminance(image).expand_as(image), between(p[:, 0], 0.65, 1))


def _sepia(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return mix(image, luminance(image) * rgb(image, 1.08, 0.88, 0.62), between(p[:, 0], 0.65, 1))


def _posterise(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    levels = pixelwise(between(p[:, 0], 1.5, 3.5))
    scaled = image * levels
    floor = scaled.floor()
    return (floor + ((scaled - floor - 0.5) * 12).sigmoid()) / levels


def tint(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Mixed with a colour: its hue, and how much of it."""
    return mix(image, paint(p[:, 0])[:, :, None, None], between(p[:, 1], 0.3, 0.62))


def _duotone(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    light = luminance(image)
    dark_end, light_end = paint(p[:, 0], 0.85, 0.3), paint(p[:, 1], 0.35, 1.0)
    return dark_end[:, :, None, None] * (1 - light) + light_end[:, :, None, None] * light


def _solarize(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    over = ((image - pixelwise(between(p[:, 0], 0.35, 0.65))) * 25).sigmoid()
    return image * (1 - over) + (1 - image) * over


def _tone_wave(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    phase = torch.stack([p[:, 0], p[:, 0] + 0.15 * p[:, 2], p[:, 0] - 0.15 * p[:, 2]], 1)[:, :, None, None]
    return 0.5 + 0.45 * torch.sin(2 * math.pi * (phase + image * pixelwise(between(p[:, 1], 0.5, 1.1))))


def _colour_matrix(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    gains = torch.stack([paint(p[:, k], 0.75, 1.0) for k in range(3)], 1)
    return torch.einsum("bij,bjhw->bihw", gains / gains.sum(2, keepdim=True), image) * 1.15


def _temperature(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return image * (1 + pixelwise(either(p[:, 0], (-0.42, -0.18), (0.18, 0.42))) * rgb(image, 1.0, 0.1, -1.0))


def _saturate(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    grey = luminance(image)
    return grey + (image - grey) * pixelwise(between(p[:, 0], 1.7, 3.0))


def _bw_threshold(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return ((luminance(image) - pixelwise(between(p[:, 0], 0.35, 0.7))) * 22).sigmoid().expand_as(image)


def _channel_swap(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return torch.where(pixelwise(p[:, 0]) < 0.5, image[:, [2, 0, 1]], image[:, [1, 0, 2]])


COLOUR = (
    Transform("hue_shift", "colour", _hue_shift, 1, "linear", mixes=True),
    Transform("brightness", "colour", _brightness, 1, "linear", mixes=True),
    Transform("contrast", "colour", _contrast, 1, "linear"),
    Transform("gamma", "colour", _gamma, 1, "linear"),
    Transform("invert", "colour", _invert, 1, "amount", mixes=True),
    Transform("grayscale", "colour", _grayscale, 1, "amount", mixes=True),
    Transform("sepia", "colour", _sepia, 1, "amount"),
    Transform("posterise", "colour", _posterise, 1, "linear", mixes=True),
    Transform("tint", "colour", tint, 2, "cyclic", mixes=True),
    Transform("duotone", "colour", _duotone, 2, "cyclic"),
    Transform("solarize", "colour", _solarize, 1, "linear"),
    Transform("tone_wave", "colour", _tone_wave, 3, "cyclic"),
    Transform("colour_matrix", "colour", _colour_matrix, 3, "cyclic"),
    Transform("temperature", "colour", _temperature, 1, "linear"),
    Transform("saturate", "colour", _saturate, 1, "linear"),
    Transform("bw_threshold", "colour", _bw_threshold, 1, "linear"),
    Transform("channel_swap", "colour", _channel_swap, 1, "choice"),
)
