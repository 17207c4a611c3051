"""Little pictures drawn from numbers: a background and one to three objects, rendered from signed distances.

Everything is batched torch on the generator's device. Images are (batch, 3, 64, 64) in [0, 1]; x and y run from 0 to 1,
y down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from studio.core.late import torch

SIDE = 64
OBJECTS = 3
SHAPES = (
    "circle", "square", "triangle", "star", "heart", "ring", "plus", "hexagon", "moon", "flower",
    "house", "tree", "fish", "cat", "mushroom", "cloud", "boat", "leaf",
)  # fmt: skip
GROUNDS = ("plain", "gradient", "glow", "stripes", "checks", "hill", "waves", "dots")
_FAR = 9.0  # a distance that is outside every picture
_EDGE = 1.2 / SIDE  # width of an antialiased edge


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What is in a batch of pictures; the leading axis is the batch, the second one, where there is one, the object."""

    ground: torch.Tensor  # (batch, 3) colour
    ground2: torch.Tensor  # (batch, 3) second colour
    ground_kind: torch.Tensor  # (batch,) index into GROUNDS
    ground_angle: torch.Tensor  # (batch,) radians
    ground_frequency: torch.Tensor  # (batch,)
    present: torch.Tensor  # (batch, objects) 0 or 1
    shape: torch.Tensor  # (batch, objects) index into SHAPES
    x: torch.Tensor  # (batch, objects) centre
    y: torch.Tensor
    radius: torch.Tensor
    angle: torch.Tensor
    fill: torch.Tensor  # (batch, objects, 3)
    accent: torch.Tensor  # (batch, objects, 3)
    texture: torch.Tensor  # (batch, objects) 0 plain, 1 gradient, 2 stripes, 3 dots
    line: torch.Tensor  # (batch,) width of a dark outline, 0 for none
    eyes: torch.Tensor  # (batch,) 0 or 1
    hat: torch.Tensor  # (batch,) 0 none, 1 top hat, 2 party hat, 3 crown
    hollow: torch.Tensor  # (batch,) 0 or 1


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A rendered scene with the layers that some edits need."""

    scene: Scene
    image: torch.Tensor  # (batch, 3, side, side)
    background: torch.Tensor  # (batch, 3, side, side), the objects left out
    mask: torch.Tensor  # (batch, side, side), 1 where an object covers the background
    distance: torch.Tensor  # (batch, side, side), signed distance to the nearest object's edge


def uniform(generator: torch.Generator, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """Uniform numbers on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def integers(generator: torch.Generator, shape: tuple[int, ...], below: int) -> torch.Tensor:
    """Whole numbers from 0 to below - 1 on the generator's device."""
    return torch.randint(0, below, shape, generator=generator, device=generator.device)


def hsv(hue: torch.Tensor, saturation: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """RGB on a new last axis; hue in turns, any real number."""
    offset = torch.tensor([5.0, 3.0, 1.0], device=hue.device)
    k = (offset + (hue % 1.0)[..., None] * 6) % 6
    return value[..., None] * (1 - saturation[..., None] * torch.minimum(k, 4 - k).clamp(0, 1))


def coordinates(device: torch.device, side: int = SIDE) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel centres x and y, each (side, side), in [0, 1]."""
    line = (torch.arange(side, device=device).float() + 0.5) / side
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x, y


def blend(image: torch.Tensor, colour: torch.Tensor, opacity: torch.Tensor) -> torch.Tensor:
    """Paint colour, (batch, 3) or an image, over image (batch, 3, h, w) with opacity (batch, h, w)."""
    if colour.dim() == 2:
        colour = colour[:, :, None, None]
    return image * (1 - opacity[:, None]) + colour * opacity[:, None]


def cover(distance: torch.Tensor, edge: float = _EDGE) -> torch.Tensor:
    """Antialiased opacity of the inside of a signed distance."""
    return (0.5 - distance / edge).clamp(0, 1)


def length(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Euclidean length with a finite slope at zero."""
    return torch.sqrt(x * x + y * y + 1e-9)


def sample_scene(count: int, generator: torch.Generator) -> Scene:
    """Draw scenes: a light or dark background and one to three objects of contrasting hue that hardly overlap."""
    dark = uniform(generator, (count,)) < 0.28
    hue = uniform(generator, (count,))
    saturation = torch.where(dark, uniform(generator, (count,), 0.3, 0.7), uniform(generator, (count,), 0.08, 0.45))
    value = torch.where(dark, uniform(generator, (count,), 0.14, 0.36), uniform(generator, (count,), 0.78, 1.0))
    step = torch.where(dark, uniform(generator, (count,), 0.06, 0.22), uniform(generator, (count,), -0.25, -0.06))
    hue2 = hue + uniform(generator, (count,), -0.14, 0.14)
    saturation2 = (saturation + uniform(generator, (count,), 0, 0.2)).clamp(0, 0.8)
    present, x, y, radius = _placement(count, generator)
    each = (count, OBJECTS)
    object_hue = hue[:, None] + uniform(generator, each, 0.17, 0.83)
    bright = torch.where(dark[:, None], uniform(generator, each, 0.75, 1.0), uniform(generator, each, 0.5, 0.98))
    accent_hue = object_hue + uniform(generator, each, 0.1, 0.5)
    texture = integers(generator, each, 6)
    none = torch.zeros(count, device=generator.device)
    return Scene(
        ground=hsv(hue, saturation, value),
        ground2=hsv(hue2, saturation2, (value + step).clamp(0.05, 1)),
        ground_kind=integers(generator, (count,), len(GROUNDS)),
        ground_angle=uniform(generator, (count,), 0, 2 * math.pi),
        ground_frequency=uniform(generator, (count,), 0.6, 1.4),
        present=present,
        shape=integers(generator, each, len(SHAPES)),
        x=x,
        y=y,
        radius=radius,
        angle=uniform(generator, each, -0.3, 0.3),
        fill=hsv(object_hue, uniform(generator, each, 0.55, 0.95), bright),
        accent=hsv(accent_hue, uniform(generator, each, 0.4, 0.9), uniform(generator, each, 0.35, 0.95)),
        texture=torch.where(texture > 3, torch.zeros_like(texture), texture),
        line=(uniform(generator, (count,)) < 0.3).float() * 0.022,
        eyes=none,
        hat=none.long(),
        hollow=none,
    )


def _placement(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Presence, x, y and radius (batch, objects): objects stand on a circle, smaller when there are more."""
    number = integers(generator, (count,), OBJECTS) + 1
    number = torch.where(uniform(generator, (count,)) < 0.35, torch.ones_like(number), number)
    index = torch.arange(OBJECTS, device=generator.device)[None]
    ring = torch.where(
        number == 1,
        uniform(generator, (count,), 0, 0.14),
        torch.where(number == 2, uniform(generator, (count,), 0.2, 0.25), uniform(generator, (count,), 0.23, 0.28)),
    )[:, None]
    turn = uniform(generator, (count,), 0, 2 * math.pi)[:, None] + index * (2 * math.pi / number[:, None])
    each = (count, OBJECTS)
    few = torch.where(number[:, None] == 2, uniform(generator, each, 0.16, 0.23), uniform(generator, each, 0.14, 0.19))
    radius = torch.where(number[:, None] == 1, uniform(generator, each, 0.24, 0.34), few)
    x = 0.5 + ring * turn.cos() + uniform(generator, each, -0.03, 0.03)
    y = 0.52 + ring * turn.sin() + uniform(generator, each, -0.03, 0.03)
    return (index < number[:, None]).float(), x, y, radius


def render(scene: Scene) -> Picture:
    """Draw a batch of scenes."""
    x, y = coordinates(scene.ground.device)
    background = _ground(scene, x, y)
    image = background
    mask = torch.zeros_like(image[:, 0])
    nearest = torch.full_like(mask, _FAR)
    u, v, main, part = _object_distances(scene, x, y)
    for k in range(OBJECTS):
        image, covered = _paint_object(scene, k, image, u[:, k], v[:, k], main[:, k], part[:, k])
        mask = torch.maximum(mask, covered)
        present = scene.present[:, k, None, None] > 0
        nearest = torch.minimum(nearest, torch.where(present, main[:, k], torch.full_like(mask, _FAR)))
    return Picture(scene, image.clamp(0, 1), background, mask, nearest)


def _ground(scene: Scene, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The background: its second colour laid over the first by one of eight patterns."""
    dx, dy = x[None] - 0.5, y[None] - 0.5
    angle, f = scene.ground_angle[:, None, None], scene.ground_frequency[:, None, None]
    u = dx * angle.cos() + dy * angle.sin()
    w = -dx * angle.sin() + dy * angle.cos()
    cell_x, cell_y = (dx * 6 * f + 0.5) % 1 - 0.5, (dy * 6 * f + 0.5) % 1 - 0.5
    patterns = torch.stack(
        (
            torch.zeros_like(u),
            (u + 0.5).clamp(0, 1),
            (length(dx, dy) * 1.5).clamp(0, 1).expand_as(u),
            0.3 + 0.3 * torch.tanh(4 * torch.sin(u * f * 26)),
            0.25 + 0.25 * torch.tanh(6 * torch.sin(u * f * 20) * torch.sin(w * f * 20)),
            torch.sigmoid((dy - 0.16 - 0.07 * torch.sin(dx * 7 * f + angle)) * 90),
            0.3 + 0.3 * torch.sin(dy * 42 * f + 2.2 * torch.sin(dx * 9 + angle)),
            0.7 * torch.sigmoid((0.16 - length(cell_x, cell_y)) * 22),
        )
    )
    opacity = patterns.gather(0, scene.ground_kind[None, :, None, None].expand(1, *u.shape))[0]
    return blend(scene.ground[:, :, None, None].expand(-1, -1, *x.shape), scene.ground2, opacity)


def _object_distances(scene: Scene, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Each object's own coordinates u, v and the distances to its outline and second part, (batch, objects, h, w)."""
    centre_x, centre_y, radius, angle = (t[:, :, None, None] for t in (scene.x, scene.y, scene.radius, scene.angle))
    dx, dy = (x[None, None] - centre_x) / radius, (y[None, None] - centre_y) / radius
    u, v = dx * angle.cos() + dy * angle.sin(), -dx * angle.sin() + dy * angle.cos()
    pairs = [shape(u, v) for shape in _SHAPE_FUNCTIONS]
    index = scene.shape[None, :, :, None, None].expand(1, *u.shape)
    main = torch.stack([pair[0] for pair in pairs]).gather(0, index)[0]
    part = torch.stack([pair[1] for pair in pairs]).gather(0, index)[0]
    return u, v, main * radius, part * radius


def _paint_object(
    scene: Scene, k: int, image: torch.Tensor, u: torch.Tensor, v: torch.Tensor, main: torch.Tensor, part: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Paint the k-th object of every scene; returns the images and what it covers."""
    present, hollow = scene.present[:, k, None, None], scene.hollow[:, None, None]
    inside = cover(main) * present
    colour = blend(
        scene.fill[:, k, :, None, None].expand_as(image), scene.accent[:, k], _texture(scene.texture[:, k], u, v)
    )
    colour = blend(colour, scene.accent[:, k] * 0.9, cover(part) * inside)
    rim = cover(main.abs() - 0.026) * cover(main, 3 * _EDGE) * present
    body = inside * (1 - hollow) + rim * hollow
    image = blend(image, colour, body)
    half = scene.line[:, None, None] * 0.5
    outline = cover((main + half).abs() - half) * present * (half > 0) * (1 - hollow)
    image = blend(image, scene.accent[:, k] * 0.25, outline)
    image = _paint_eyes(scene, k, image, u, v)
    hat = _hat_distance(scene.hat, u, v) * scene.radius[:, k, None, None]
    worn = cover(hat) * present * (scene.hat > 0)[:, None, None]
    return blend(image, _hat_colour(scene.hat), worn), torch.maximum(body, worn)


def _texture(kind: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """How much of the accent colour shows at each point of an object."""
    patterns = torch.stack(
        (
            torch.zeros_like(u),
            ((v + 1) / 2).clamp(0, 1) * 0.55,
            0.25 + 0.25 * torch.tanh(5 * torch.sin(u * 11)),
            0.6 * torch.sigmoid((0.26 - length((u * 2.6) % 1 - 0.5, (v * 2.6) % 1 - 0.5)) * 18),
        )
    )
    return patterns.gather(0, kind[None, :, None, None].expand(1, *u.shape))[0]


def _paint_eyes(scene: Scene, k: int, image: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    centre = length(u.abs() - 0.3, v + 0.12)
    wanted = scene.eyes[:, None, None] * scene.present[:, k, None, None]
    radius = scene.radius[:, k, None, None]
    white = torch.ones_like(scene.fill[:, k])
    image = blend(image, white, cover((centre - 0.27) * radius) * wanted)
    return blend(image, white * 0.05, cover((centre - 0.13) * radius) * wanted)


def _hat_distance(kind: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    top = torch.minimum(_box(u, v + 0.78, 0.62, 0.08), _box(u, v + 1.12, 0.36, 0.34))
    party = _triangle(u, v, -1.6, -0.72, 0.5)
    notch = _triangle((u + 0.25).abs() % 0.5 - 0.25, -(v + 0.98), -0.02, 0.24, 0.16)
    crown = torch.maximum(_box(u, v + 0.95, 0.5, 0.25), -notch)
    kind = kind[:, None, None]
    return torch.where(kind == 1, top, torch.where(kind == 2, party, crown))


def _hat_colour(kind: torch.Tensor) -> torch.Tensor:
    colours = torch.tensor([[0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [0.9, 0.2, 0.5], [1.0, 0.8, 0.1]], device=kind.device)
    return colours[kind]


# Shapes: each gives the signed distance to its outline and to a second, accented part, in units of the object's radius.
_Distances = tuple["torch.Tensor", "torch.Tensor"]


def _box(u: torch.Tensor, v: torch.Tensor, half_u: float, half_v: float, corner: float = 0.0) -> torch.Tensor:
    qu, qv = u.abs() - half_u + corner, v.abs() - half_v + corner
    return length(qu.clamp(min=0), qv.clamp(min=0)) + torch.maximum(qu, qv).clamp(max=0) - corner


def _triangle(u: torch.Tensor, v: torch.Tensor, top: float, bottom: float, half: float) -> torch.Tensor:
    height = bottom - top
    side = (u.abs() * height - (v - top) * half) / math.hypot(height, half)
    return torch.maximum(side, v - bottom)


def _none(u: torch.Tensor) -> torch.Tensor:
    return torch.full_like(u, _FAR)


def _circle(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    return length(u, v) - 0.88, _none(u)


def _square(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    return _box(u, v, 0.74, 0.74, 0.15), _none(u)


def _pyramid(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    return _triangle(u, v, -0.95, 0.72, 0.92), _none(u)


def _star(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    sector = 2 * math.pi / 5
    radius = length(u, v)
    folded = (torch.atan2(u, -v) + sector / 2) % sector - sector / 2
    px, py = radius * folded.cos(), (radius * folded.sin()).abs()
    tip, inner_x, inner_y = 0.98, 0.42 * math.cos(sector / 2), 0.42 * math.sin(sector / 2)
    nx, ny = inner_y, tip - inner_x
    return ((px - tip) * nx + py * ny) / math.hypot(nx, ny), _none(u)


def _heart(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    point = (u.abs() + (v - 0.15).abs() - 0.82) / 1.414
    return torch.minimum(point, length(u.abs() - 0.41, v + 0.26) - 0.58), _none(u)


def _ring(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    return (length(u, v) - 0.64).abs() - 0.24, _none(u)


def _plus(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    return torch.minimum(_box(u, v, 0.9, 0.3, 0.05), _box(u, v, 0.3, 0.9, 0.05)), _none(u)


def _hexagon(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    return torch.maximum(v.abs() * 0.866 + u.abs() * 0.5, u.abs()) - 0.8, _none(u)


def _moon(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    return torch.maximum(length(u, v) - 0.9, 0.74 - length(u - 0.42, v + 0.15)), _none(u)


def _flower(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    radius = length(u, v)
    return (radius - (0.66 + 0.24 * torch.cos(5 * torch.atan2(u, -v)))) * 0.75, radius - 0.27


def _house(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    roof = _triangle(u, v, -0.95, -0.02, 0.92)
    door = _box(u, v - 0.6, 0.16, 0.3)
    return torch.minimum(_box(u, v - 0.38, 0.62, 0.5), roof), torch.minimum(roof, door)


def _tree(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    crown = torch.minimum(length(u, v + 0.42) - 0.48, length(u.abs() - 0.33, v + 0.02) - 0.42)
    trunk = _box(u, v - 0.62, 0.13, 0.35)
    return torch.minimum(crown, trunk), trunk


def _fish(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    body = (torch.sqrt((u + 0.18) ** 2 / 0.56 + v**2 / 0.22 + 1e-9) - 1) * 0.5
    tail = _triangle(v, 0.9 - u, 0.02, 0.5, 0.45)
    return torch.minimum(body, tail), length(u + 0.52, v + 0.08) - 0.1


def _cat(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    ears = _triangle(u.abs() - 0.46, v, -0.98, -0.1, 0.36)
    eyes = length(u.abs() - 0.28, v + 0.02) - 0.12
    nose = _triangle(u, 0.42 - v, 0, 0.17, 0.14)
    return torch.minimum(length(u, v - 0.12) - 0.74, ears), torch.minimum(eyes, nose)


def _mushroom(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    cap = torch.maximum(length(u * 0.92, v - 0.05) - 0.85, v - 0.12)
    spots = torch.minimum(length(u - 0.3, v + 0.35) - 0.15, length(u + 0.32, v + 0.2) - 0.18)
    stem = _box(u, v - 0.48, 0.27, 0.42, 0.1)
    return torch.minimum(cap, stem), torch.minimum(stem, spots)


def _cloud(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    puffs = torch.minimum(length(u.abs() - 0.42, v - 0.12) - 0.4, length(u - 0.05, v + 0.2) - 0.5)
    return torch.minimum(puffs, _box(u, v - 0.32, 0.45, 0.2)), _none(u)


def _boat(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    hull = torch.maximum(_triangle(u, 1.2 - v, 0.0, 0.95, 1.45), torch.maximum(v - 0.8, 0.25 - v))
    sail = _triangle(u - 0.12, v, -0.95, 0.15, 0.55)
    return torch.minimum(hull, torch.minimum(sail, _box(u, v + 0.2, 0.05, 0.7))), sail


def _leaf(u: torch.Tensor, v: torch.Tensor) -> _Distances:
    return torch.maximum(length(u - 0.5, v) - 1.03, length(u + 0.5, v) - 1.03), _box(u, v, 0.04, 0.7)


_SHAPE_FUNCTIONS: tuple[Callable[[torch.Tensor, torch.Tensor], _Distances], ...] = (
    _circle, _square, _pyramid, _star, _heart, _ring, _plus, _hexagon, _moon, _flower,
    _house, _tree, _fish, _cat, _mushroom, _cloud, _boat, _leaf,
)  # fmt: skip
