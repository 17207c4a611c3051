"""One space for the units of all modules: a seeded random sketch of their directions.

Units of different modules have different lengths and no exact common space. Each half is projected to `size` numbers by
a random matrix that depends only on the seed, the side and the dimension, so halves of modules that read (or write) a
space of the same width meet in the same coordinates. Within a module the sketch keeps the mean of the two half-cosines
up to about 1 / sqrt(size) (Johnson and Lindenstrauss 1984). Across modules nearness says "alike in the same coordinates
of an equally wide space", which means something along a residual stream and little else. Similarity is read from the
true cosines of `studio.units.gram`, never from the map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from studio.core.late import torch
from studio.units.pool import Place, Pool

if TYPE_CHECKING:
    from torch import Tensor

Side = Literal["a", "b"]
Projections = Mapping[tuple[Side, int], "Tensor"]


def projections(places: Iterable[Place], *, size: int = 64, seed: int = 0) -> Projections:
    """A Gaussian matrix (d, size) for each side and dimension that the modules use."""
    wanted: dict[tuple[Side, int], None] = {}
    for place in places:
        wanted["a", place.d_in] = wanted["b", place.d_out] = None
    return {(side, d): _gaussian(side, d, size, seed) for side, d in wanted}


def sketch(pool: Pool, matrices: Projections) -> Tensor:
    """The sketch (n, 2 size) of the units' directions: halves of expected length 1 / sqrt(2), zeros for zero units.

    (a, b) and (-a, -b) are the same unit. The sign that makes the entry of largest magnitude in b positive decides, for
    raw units as well; where two entries nearly tie, two nearly equal units can still take opposite signs.
    """
    peak = pool.b.gather(1, pool.b.abs().argmax(1, keepdim=True))
    sign = torch.where(peak < 0, -1.0, 1.0)
    a = torch.nn.functional.normalize(pool.a * sign, dim=1) @ matrices["a", pool.place.d_in]
    b = torch.nn.functional.normalize(pool.b * sign, dim=1) @ matrices["b", pool.place.d_out]
    return torch.cat([a, b], 1) / math.sqrt(2)


def _gaussian(side: Side, d: int, size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(((seed * 2 + (side == "b")) << 24) + d)
    return torch.randn((d, size), generator=generator) / math.sqrt(size)
