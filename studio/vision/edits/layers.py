"""Edits that treat object and background apart."""

from __future__ import annotations

import math

from studio.core.late import torch
from studio.vision.edits.colour import tint
from studio.vision.edits.transform import Transform
from studio.vision.edits.vocabulary import between, gaussian, luminance, maps, paint, pixelwise, sample, xy
from studio.vision.scenes import Picture, blend, cover


def _shadow(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    angle = p[:, 0] * 2 * math.pi
    x, y = xy(picture.image)
    dx, dy = maps(0.07 * angle.cos()), maps(0.07 * angle.sin())
    moved = sample(picture.mask[:, None], x - dx, y - dy, padding="zeros")[:, 0]
    return picture.image * (1 - 0.6 * moved * (1 - picture.mask))[:, None]


def _outline(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    half = maps(between(p[:, 1], 0.025, 0.06)) / 2
    return blend(picture.image, paint(p[:, 0]), cover((picture.distance - half).abs() - half))


def _glow(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    halo = torch.exp(-((picture.distance.clamp(min=0) / 0.07) ** 2)) * (1 - picture.mask) * 0.9
    return blend(picture.image, paint(p[:, 0], 0.5, 1.0), halo)


def _blur_bg(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(gaussian(picture.background, between(p[:, 0], 2.5, 4.0)) * 0.9, picture.image, picture.mask)


def _colour_pop(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(luminance(picture.image).expand_as(picture.image), picture.image, picture.mask)


def _cutout(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    flat = paint(p[:, 0], 0.25, 1.0)[:, :, None, None].expand_as(picture.image)
    return blend(flat, picture.image, picture.mask)


def _silhouette(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(picture.image, paint(p[:, 0], 0.6, 0.25), picture.mask)


def _bg_invert(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(1 - picture.image, picture.image, picture.mask)


def _bg_darken(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(picture.image * pixelwise(between(p[:, 0], 0.2, 0.6)), picture.image, picture.mask)


def _bg_tint(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(tint(picture.image, p), picture.image, picture.mask)


def _fg_grayscale(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(picture.image, luminance(picture.image).expand_as(picture.image), picture.mask)


def _fg_invert(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(picture.image, 1 - picture.image, picture.mask)


LAYERS = (
    Transform("shadow", "layer", _shadow, 1, "cyclic", "layers"),
    Transform("outline", "layer", _outline, 2, "cyclic", "layers"),
    Transform("glow", "layer", _glow, 1, "cyclic", "layers"),
    Transform("blur_bg", "layer", _blur_bg, 1, "linear", "layers"),
    Transform("colour_pop", "layer", _colour_pop, 0, "none", "layers"),
    Transform("cutout", "layer", _cutout, 1, "cyclic", "layers"),
    Transform("silhouette", "layer", _silhouette, 1, "cyclic", "layers"),
    Transform("bg_invert", "layer", _bg_invert, 0, "none", "layers"),
    Transform("bg_darken", "layer", _bg_darken, 1, "linear", "layers"),
    Transform("bg_tint", "layer", _bg_tint, 2, "cyclic", "layers"),
    Transform("fg_grayscale", "layer", _fg_grayscale, 0, "none", "layers"),
    Transform("fg_invert", "layer", _fg_invert, 0, "none", "layers"),
)
