"""The edits of the image world: each is an exact function of a picture and up to three numbers.

A transform's first number decides between mild and strong (or picks a hue, or one of a few variants); training draws it
from [0, 1] minus two held-out bands, see `studio.vision.world`. Formulas stay meaningful a little outside [0, 1], so
that extrapolation can be asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from studio.late import torch
from studio.vision.scenes import OBJECTS, SIDE, Picture, Scene, blend, coordinates, cover, hsv, length, render

PARAMETERS = 3
Family = Literal["colour", "filter", "overlay", "geometry", "object", "layer"]
First = Literal["none", "linear", "amount", "cyclic", "choice"]


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """One edit. `reads` says what it needs: pixels only, the rendered layers, or the scene itself.

    `first` is the kind of the first parameter: `linear` can be extrapolated, `amount` ends at a full effect,
    `cyclic` is a hue or an angle, `choice` picks a variant, `none` means that there are no parameters.
    `mixes`: takes part in pairs.
    """

    name: str
    family: Family
    edit: Callable[..., Any]
    parameters: int
    first: First
    reads: Literal["pixels", "layers", "scene"] = "pixels"
    mixes: bool = False

    def __call__(self, picture: Picture, p: torch.Tensor) -> torch.Tensor:
        """The edited images, (batch, 3, side, side) in [0, 1]; p is (batch, 3)."""
        if self.reads == "scene":
            return render(self.edit(picture.scene, p)).image
        edited: torch.Tensor = self.edit(picture if self.reads == "layers" else picture.image, p)
        return edited.clamp(0, 1)

    def on_pixels(self, image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        """Apply to any images, as the second edit of a pair; only for transforms that read pixels alone."""
        edited: torch.Tensor = self.edit(image, p)
        return edited.clamp(0, 1)


# Small vocabulary -----------------------------------------------------------------------------------------------------


def _pixelwise(p: torch.Tensor) -> torch.Tensor:
    return p[:, None, None, None]


def _maps(p: torch.Tensor) -> torch.Tensor:
    return p[:, None, None]


def _range(p: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return low + (high - low) * p


def _either(p: torch.Tensor, low: tuple[float, float], high: tuple[float, float]) -> torch.Tensor:
    """The lower half of [0, 1] covers one range, the upper half another, with nothing weak in between."""
    return torch.where(p < 0.5, _range(p * 2, *low), _range(p * 2 - 1, *high))


def luminance(image: torch.Tensor) -> torch.Tensor:
    """The weight of each pixel's light to the eye, (batch, 1, h, w) of (batch, 3, h, w)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=image.device)
    return (image * weights[None, :, None, None]).sum(1, keepdim=True)


def _mix(image: torch.Tensor, other: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    return image + (other - image) * _pixelwise(amount)


def _paint(hue: torch.Tensor, saturation: float = 0.8, value: float = 0.95) -> torch.Tensor:
    """Colours (batch, 3) of a hue."""
    return hsv(hue, torch.full_like(hue, saturation), torch.full_like(hue, value))


def _rgb(image: torch.Tensor, red: float, green: float, blue: float) -> torch.Tensor:
    return torch.tensor([red, green, blue], device=image.device)[None, :, None, None]


def _white(image: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(image[:, :, 0, 0])


def _xy(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = coordinates(image.device, image.shape[-1])
    count = image.shape[0]
    return x.expand(count, -1, -1), y.expand(count, -1, -1)


def _sample(image: torch.Tensor, x: torch.Tensor, y: torch.Tensor, padding: str = "reflection") -> torch.Tensor:
    """Read image at source coordinates x, y in [0, 1], bilinear."""
    grid = torch.stack([x * 2 - 1, y * 2 - 1], -1)
    return torch.nn.functional.grid_sample(image, grid, padding_mode=padding, align_corners=False)


def _gaussian(image: torch.Tensor, sigma: torch.Tensor, reach: int = 12) -> torch.Tensor:
    """Blur with one sigma in pixels per image, edges replicated, as two matrix products."""
    side = image.shape[-1]
    target = torch.arange(side, device=image.device).float()
    source = torch.arange(-reach, side + reach, device=image.device).float()
    kernel = torch.exp(-((source[None, None] - target[None, :, None]) ** 2) / (2 * sigma[:, None, None] ** 2))
    kernel = kernel / kernel.sum(-1, keepdim=True)
    matrix = kernel[..., reach:-reach].clone()
    matrix[..., 0] += kernel[..., :reach].sum(-1)
    matrix[..., -1] += kernel[..., -reach:].sum(-1)
    return torch.einsum("bij,bcjk,blk->bcil", matrix, image, matrix)


def _slopes(image: torch.Tensor) -> torch.Tensor:
    """Length of the central difference at each pixel and channel."""
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    return torch.sqrt(across**2 + down**2 + 1e-6)


def _stars(device: torch.device, count: int, seed: int) -> torch.Tensor:
    """Opacity of a fixed set of small discs, (count, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(count, 2, generator=generator).to(device)
    radius = (torch.rand(count, generator=generator) * 0.008 + 0.010).to(device)
    x, y = coordinates(device)
    away = length(x[None] - place[:, 0, None, None], y[None] - place[:, 1, None, None])
    return cover(away - radius[:, None, None])


def _step(distance: torch.Tensor, width: float = SIDE) -> torch.Tensor:
    """Antialiased opacity of what is positive."""
    return (distance * width + 0.5).clamp(0, 1)


# Colour ---------------------------------------------------------------------------------------------------------------


def _hue_shift(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    angle = _range(p[:, 0], 0.16, 0.84) * 2 * math.pi
    c, s, third, root = angle.cos(), angle.sin(), 1 / 3, math.sqrt(1 / 3)
    same, before, after = c + (1 - c) * third, third * (1 - c) - root * s, third * (1 - c) + root * s
    rows = [torch.stack(row, -1) for row in ((same, before, after), (after, same, before), (before, after, same))]
    return torch.einsum("bij,bjhw->bihw", torch.stack(rows, -2), image)


def _brightness(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return image * _pixelwise(_either(p[:, 0], (0.35, 0.7), (1.35, 1.9)))


def _contrast(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return (image - 0.5) * _pixelwise(_either(p[:, 0], (0.25, 0.6), (1.6, 2.6))) + 0.5


def _gamma(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return image.clamp(1e-3, 1) ** _pixelwise(_either(p[:, 0], (0.3, 0.6), (1.7, 3.2)))


def _invert(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return _mix(image, 1 - image, _range(p[:, 0], 0.75, 1))


def _grayscale(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return _mix(image, luminance(image).expand_as(image), _range(p[:, 0], 0.65, 1))


def _sepia(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return _mix(image, luminance(image) * _rgb(image, 1.08, 0.88, 0.62), _range(p[:, 0], 0.65, 1))


def _posterise(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    levels = _pixelwise(_range(p[:, 0], 1.5, 3.5))
    scaled = image * levels
    floor = scaled.floor()
    return (floor + ((scaled - floor - 0.5) * 12).sigmoid()) / levels


def _tint(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return _mix(image, _paint(p[:, 0])[:, :, None, None], _range(p[:, 1], 0.3, 0.62))


def _duotone(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    light = luminance(image)
    dark_end, light_end = _paint(p[:, 0], 0.85, 0.3), _paint(p[:, 1], 0.35, 1.0)
    return dark_end[:, :, None, None] * (1 - light) + light_end[:, :, None, None] * light


def _solarize(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    over = ((image - _pixelwise(_range(p[:, 0], 0.35, 0.65))) * 25).sigmoid()
    return image * (1 - over) + (1 - image) * over


def _tone_wave(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    phase = torch.stack([p[:, 0], p[:, 0] + 0.15 * p[:, 2], p[:, 0] - 0.15 * p[:, 2]], 1)[:, :, None, None]
    return 0.5 + 0.45 * torch.sin(2 * math.pi * (phase + image * _pixelwise(_range(p[:, 1], 0.5, 1.1))))


def _colour_matrix(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    gains = torch.stack([_paint(p[:, k], 0.75, 1.0) for k in range(3)], 1)
    return torch.einsum("bij,bjhw->bihw", gains / gains.sum(2, keepdim=True), image) * 1.15


def _temperature(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return image * (1 + _pixelwise(_either(p[:, 0], (-0.42, -0.18), (0.18, 0.42))) * _rgb(image, 1.0, 0.1, -1.0))


def _saturate(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    grey = luminance(image)
    return grey + (image - grey) * _pixelwise(_range(p[:, 0], 1.7, 3.0))


def _bw_threshold(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return ((luminance(image) - _pixelwise(_range(p[:, 0], 0.35, 0.7))) * 22).sigmoid().expand_as(image)


def _channel_swap(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return torch.where(_pixelwise(p[:, 0]) < 0.5, image[:, [2, 0, 1]], image[:, [1, 0, 2]])


# Filters --------------------------------------------------------------------------------------------------------------


def _blur(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return _gaussian(image, _range(p[:, 0], 1.2, 3.2))


def _sharpen(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    soft = _gaussian(image, torch.full_like(p[:, 0], 1.6))
    return image + (image - soft) * _pixelwise(_range(p[:, 0], 1.5, 4.0))


def _pixelate(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    fine, coarse = (
        torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(image, block), scale_factor=block)
        for block in (image.shape[-1] // 16, image.shape[-1] // 8)
    )
    return torch.where(_pixelwise(p[:, 0]) < 0.5, fine, coarse)


def _sketch(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    ink = _slopes(luminance(image)) * _pixelwise(_range(p[:, 0], 2.2, 5.0))
    return (1 - ink).clamp(0, 1).expand_as(image)


def _neon_edges(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    edges = _slopes(image).amax(1, keepdim=True) * 3.2
    return (edges * _paint(p[:, 0], 0.55, 1.0)[:, :, None, None]).clamp(0, 1) + image * 0.12


def _emboss(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    angle, reach = p[:, 0] * 2 * math.pi, 1.3 / image.shape[-1]
    x, y = _xy(image)
    dx, dy = _maps(reach * angle.cos()), _maps(reach * angle.sin())
    relief = luminance(_sample(image, x + dx, y + dy) - _sample(image, x - dx, y - dy))
    return 0.5 + relief.expand_as(image) * 1.4


def _motion_blur(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    angle, reach = p[:, 0] * math.pi, _range(p[:, 1], 0.06, 0.14)
    x, y = _xy(image)
    dx, dy = _maps(reach * angle.cos()), _maps(reach * angle.sin())
    return torch.stack([_sample(image, x + t * dx, y + t * dy) for t in torch.linspace(-1, 1, 9).tolist()]).mean(0)


def _halftone(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = _xy(image)
    turns = _maps(_range(p[:, 0], 9, 15)) * 2 * math.pi
    screen = torch.cos(x * turns) * torch.cos(y * turns)
    return ((luminance(image)[:, 0] - 0.5 + screen * 0.38) * 9).sigmoid()[:, None].expand_as(image)


# Overlays -------------------------------------------------------------------------------------------------------------


def _border(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = _xy(image)
    inset = torch.minimum(torch.minimum(x, 1 - x), torch.minimum(y, 1 - y))
    return blend(image, _paint(p[:, 0]), _step(_maps(_range(p[:, 1], 0.05, 0.14)) - inset))


def _stripes(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = _xy(image)
    angle, turns = _maps(p[:, 1] * math.pi), _maps(_range(p[:, 2], 4, 7.5)) * 2 * math.pi
    wave = torch.tanh(3 * torch.sin((x * angle.cos() + y * angle.sin()) * turns))
    return blend(image, _paint(p[:, 0]), (0.5 + 0.5 * wave) * 0.75)


def _dots(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = _xy(image)
    f = _maps(_range(p[:, 1], 3.5, 6.5))
    cell_x, cell_y = ((x - 0.5) * f + 0.5) % 1 - 0.5, ((y - 0.5) * f + 0.5) % 1 - 0.5
    return blend(image, _paint(p[:, 0]), ((0.27 - length(cell_x, cell_y)) * SIDE / f + 0.5).clamp(0, 1) * 0.9)


def _grid_lines(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = _xy(image)
    f = _maps(_range(p[:, 1], 3.5, 6.5))
    cell = torch.minimum((((x - 0.5) * f + 0.5) % 1 - 0.5).abs(), (((y - 0.5) * f + 0.5) % 1 - 0.5).abs())
    return blend(image, _paint(p[:, 0]), ((0.09 - cell) * SIDE / f + 0.5).clamp(0, 1) * 0.9)


def _vignette(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = _xy(image)
    shade = ((length(x - 0.5, y - 0.5) - 0.22) * 2.4).clamp(0, 1)
    return image * (1 - _maps(_range(p[:, 0], 0.6, 1.0)) * shade)[:, None]


def _spotlight(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = _xy(image)
    outside = length(x - 0.5, y - 0.5) - _maps(_range(p[:, 1], 0.26, 0.42))
    return blend(image, _paint(p[:, 0], 0.7, 0.35), _step(outside))


def _snow(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    flakes = _stars(image.device, 60, seed=5)
    falling = (torch.arange(60, device=image.device)[None] < _range(p[:, 0], 18, 60)[:, None]).float()
    return blend(image * 0.92 + 0.05, _white(image), torch.einsum("bn,nhw->bhw", falling, flakes).clamp(0, 1))


def _night(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    dark = image * _pixelwise(_range(p[:, 0], 0.25, 0.5)) * _rgb(image, 0.75, 0.85, 1.3) + _rgb(image, 0.0, 0.01, 0.08)
    _, y = coordinates(image.device)
    sky = (_stars(image.device, 22, seed=9).sum(0) * (y < 0.5)).clamp(0, 1)
    return blend(dark, _white(image) * 0.95, sky.expand(image.shape[0], -1, -1))


def _sunset(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    _, y = _xy(image)
    return blend(image, _paint(_range(p[:, 0], -0.12, 0.14), 0.85, 1.0), (1 - y) ** 1.3 * 0.8)


def _letterbox(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    _, y = _xy(image)
    return blend(image, _white(image) * 0.02, _step(_maps(_range(p[:, 0], 0.1, 0.26)) - torch.minimum(y, 1 - y)))


def _badge(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = _xy(image)
    corner = (p[:, 1].clamp(0, 0.999) * 4).long()
    away = length(x - _maps(0.2 + 0.6 * (corner % 2)), y - _maps(0.2 + 0.6 * (corner // 2)))
    return blend(blend(image, _white(image), _step(0.155 - away)), _paint(p[:, 0]), _step(0.12 - away))


def _scanlines(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    _, y = _xy(image)
    dark = 0.5 + 0.5 * torch.sin(y * 2 * math.pi * 16)
    return image * (1 - _maps(_range(p[:, 0], 0.45, 0.8)) * dark)[:, None]


# Geometry -------------------------------------------------------------------------------------------------------------


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
    return torch.where(_pixelwise(p[:, 0]) < 0.5, image.rot90(1, (-2, -1)), image.rot90(-1, (-2, -1)))


def _zoom(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = _xy(image)
    scale = _maps(_either(p[:, 0], (0.5, 0.8), (1.3, 1.7)))
    return _sample(image, (x - 0.5) * scale + 0.5, (y - 0.5) * scale + 0.5)


def _roll(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    half = image.shape[-1] // 2
    return torch.where(_pixelwise(p[:, 0]) < 0.5, image.roll(half, -1), image.roll(half, -2))


def _wave(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = _xy(image)
    return _sample(image, x + 0.06 * torch.sin(y * _maps(_range(p[:, 0], 1.5, 4.0)) * 2 * math.pi), y)


def _swirl(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = _xy(image)
    dx, dy = x - 0.5, y - 0.5
    angle = _maps(_range(p[:, 0], 1.0, 2.6)) * (1 - length(dx, dy) * 2).clamp(0, 1)
    return _sample(image, dx * angle.cos() + dy * angle.sin() + 0.5, -dx * angle.sin() + dy * angle.cos() + 0.5)


def _tile(image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y = _xy(image)
    copies = torch.where(_maps(p[:, 0]) < 0.5, 2.0, 3.0)
    return _sample(image, (x * copies) % 1, (y * copies) % 1, padding="border")


# Objects: edits of the scene, rendered again --------------------------------------------------------------------------


def _recolour_obj(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(scene, fill=_paint(p[:, 0])[:, None].expand_as(scene.fill))


def _recolour_bg(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(scene, ground=_paint(p[:, 0], 0.5, 0.9), ground2=_paint(p[:, 0], 0.6, 0.7))


def _swap_fg_bg(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(
        scene,
        ground=scene.fill[:, 0],
        ground2=scene.accent[:, 0],
        fill=scene.ground[:, None].expand(-1, OBJECTS, -1),
        accent=scene.ground2[:, None].expand(-1, OBJECTS, -1),
    )


def _grow(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(scene, radius=scene.radius * _either(p[:, 0], (0.5, 0.72), (1.25, 1.5))[:, None])


def _hollow(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(scene, hollow=torch.ones_like(scene.hollow))


def _add_eyes(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(scene, eyes=torch.ones_like(scene.eyes))


def _add_hat(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(scene, hat=1 + (p[:, 0].clamp(0, 0.999) * 3).long())


def _obj_stripes(scene: Scene, p: torch.Tensor) -> Scene:
    return replace(scene, texture=torch.full_like(scene.texture, 2), accent=scene.fill * 0.35)


# Layers: edits that treat object and background apart -----------------------------------------------------------------


def _shadow(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    angle = p[:, 0] * 2 * math.pi
    x, y = _xy(picture.image)
    dx, dy = _maps(0.07 * angle.cos()), _maps(0.07 * angle.sin())
    moved = _sample(picture.mask[:, None], x - dx, y - dy, padding="zeros")[:, 0]
    return picture.image * (1 - 0.6 * moved * (1 - picture.mask))[:, None]


def _outline(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    half = _maps(_range(p[:, 1], 0.025, 0.06)) / 2
    return blend(picture.image, _paint(p[:, 0]), cover((picture.distance - half).abs() - half))


def _glow(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    halo = torch.exp(-((picture.distance.clamp(min=0) / 0.07) ** 2)) * (1 - picture.mask) * 0.9
    return blend(picture.image, _paint(p[:, 0], 0.5, 1.0), halo)


def _blur_bg(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(_gaussian(picture.background, _range(p[:, 0], 2.5, 4.0)) * 0.9, picture.image, picture.mask)


def _colour_pop(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(luminance(picture.image).expand_as(picture.image), picture.image, picture.mask)


def _cutout(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    flat = _paint(p[:, 0], 0.25, 1.0)[:, :, None, None].expand_as(picture.image)
    return blend(flat, picture.image, picture.mask)


def _silhouette(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(picture.image, _paint(p[:, 0], 0.6, 0.25), picture.mask)


def _bg_invert(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(1 - picture.image, picture.image, picture.mask)


def _bg_darken(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(picture.image * _pixelwise(_range(p[:, 0], 0.2, 0.6)), picture.image, picture.mask)


def _bg_tint(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(_tint(picture.image, p), picture.image, picture.mask)


def _fg_grayscale(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(picture.image, luminance(picture.image).expand_as(picture.image), picture.mask)


def _fg_invert(picture: Picture, p: torch.Tensor) -> torch.Tensor:
    return blend(picture.image, 1 - picture.image, picture.mask)


_ALL = (
    Transform("hue_shift", "colour", _hue_shift, 1, "linear", mixes=True),
    Transform("brightness", "colour", _brightness, 1, "linear", mixes=True),
    Transform("contrast", "colour", _contrast, 1, "linear"),
    Transform("gamma", "colour", _gamma, 1, "linear"),
    Transform("invert", "colour", _invert, 1, "amount", mixes=True),
    Transform("grayscale", "colour", _grayscale, 1, "amount", mixes=True),
    Transform("sepia", "colour", _sepia, 1, "amount"),
    Transform("posterise", "colour", _posterise, 1, "linear", mixes=True),
    Transform("tint", "colour", _tint, 2, "cyclic", mixes=True),
    Transform("duotone", "colour", _duotone, 2, "cyclic"),
    Transform("solarize", "colour", _solarize, 1, "linear"),
    Transform("tone_wave", "colour", _tone_wave, 3, "cyclic"),
    Transform("colour_matrix", "colour", _colour_matrix, 3, "cyclic"),
    Transform("temperature", "colour", _temperature, 1, "linear"),
    Transform("saturate", "colour", _saturate, 1, "linear"),
    Transform("bw_threshold", "colour", _bw_threshold, 1, "linear"),
    Transform("channel_swap", "colour", _channel_swap, 1, "choice"),
    Transform("blur", "filter", _blur, 1, "linear", mixes=True),
    Transform("sharpen", "filter", _sharpen, 1, "linear"),
    Transform("pixelate", "filter", _pixelate, 1, "choice", mixes=True),
    Transform("sketch", "filter", _sketch, 1, "linear", mixes=True),
    Transform("neon_edges", "filter", _neon_edges, 1, "cyclic"),
    Transform("emboss", "filter", _emboss, 1, "cyclic"),
    Transform("motion_blur", "filter", _motion_blur, 2, "cyclic"),
    Transform("halftone", "filter", _halftone, 1, "linear", mixes=True),
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
    Transform("recolour_obj", "object", _recolour_obj, 1, "cyclic", "scene"),
    Transform("recolour_bg", "object", _recolour_bg, 1, "cyclic", "scene"),
    Transform("swap_fg_bg", "object", _swap_fg_bg, 0, "none", "scene"),
    Transform("grow", "object", _grow, 1, "linear", "scene"),
    Transform("hollow", "object", _hollow, 0, "none", "scene"),
    Transform("add_eyes", "object", _add_eyes, 0, "none", "scene"),
    Transform("add_hat", "object", _add_hat, 1, "choice", "scene"),
    Transform("obj_stripes", "object", _obj_stripes, 0, "none", "scene"),
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

TRANSFORMS: Mapping[str, Transform] = MappingProxyType({transform.name: transform for transform in _ALL})
