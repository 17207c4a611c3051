"""SLERP: between two adapters along the arc, not the chord."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from studio.core.late import torch
from studio.core.linalg import inner
from studio.merging.cat import weighted
from studio.merging.registry import Laws, Merged, method

if TYPE_CHECKING:
    from torch import Tensor

    from studio.core.linalg import Pair

_PARALLEL = 0.9995  # beyond this cosine the arc and the chord are one, and its formula divides by zero


@method(
    title="SLERP: arc between two",
    source="Shoemake 1985; angle by traces, so the result is an exact cat",
    laws=Laws(),
    max_sources=2,
    signed=False,  # a position on the arc lies between the two
)
def slerp(pairs: Sequence[Pair], weights: Tensor) -> Merged:
    """Goes from one adapter to the other along the arc between them, so that the norm does not sag half way.

    The weights' shares set the position, t = w_2 / (w_1 + w_2), and their sum scales the result. A module that one
    of the two lacks, or where they are parallel or opposite, is interpolated straight.
    """
    if len(pairs) == 1:
        return Merged(weighted(pairs, weights))
    first, second = (pair.double() for pair in pairs)
    total = weights.double().sum(-1)
    t = weights[..., 1].double() / total
    norms = (inner(first, first) * inner(second, second)).clamp_min(0).sqrt()
    cosine = torch.where(norms > 0, inner(first, second) / norms.clamp_min(1e-300), 1.0).clamp(-1, 1)
    angle = cosine.arccos()
    straight = cosine.abs() > _PARALLEL
    sine = torch.where(straight, 1.0, angle.sin())
    along = torch.stack((((1 - t) * angle).sin() / sine, (t * angle).sin() / sine), -1)
    chord = torch.stack((1 - t, t), -1)
    shares = torch.where(straight[..., None], chord, along) * total[..., None]
    return Merged(weighted(pairs, shares.to(weights)))
