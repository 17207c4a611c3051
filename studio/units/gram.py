"""Inner products between the units of a module, kept as two halves so that every later question is small algebra.

For units b a^T: the joint vector [a; b] of LoRA-LEGO has the Gram matrix G_a + G_b, and the deltas themselves have
G_a * G_b (elementwise). Weights enter as factors, so sliders never touch the adapters again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from studio.core.errors import LoomError
from studio.core.late import torch
from studio.units.cluster import kmeans

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 2 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Grams:
    """The half Gram matrices of P modules that have n units each: a and b (P, n, n), float64.

    `units` (P, n) are the rows of the unit table they belong to.
    """

    units: Tensor
    a: Tensor
    b: Tensor

    def joint(self, weights: Tensor | None = None) -> Tensor:
        """Inner products of [a; b], (P, n, n); unit t times `weights[t]`, the root in both halves, the sign in b."""
        if weights is None:
            return self.a + self.b
        own = weights.double()[self.units]
        root, sign = own.abs().sqrt(), own.sign()
        return _outer(root) * (self.a + _outer(sign) * self.b)

    def delta(self) -> Tensor:
        """Inner products of the rank-one deltas, (P, n, n)."""
        return self.a * self.b


class Nearest(NamedTuple):
    """The most similar other unit of the same module: its row (n,), -1 where there is none, and the cosine (n,)."""

    unit: Tensor
    cosine: Tensor


def batch(halves: Sequence[tuple[Tensor, Tensor]]) -> tuple[Grams, ...]:
    """Group the modules' halves (a (n, n), b (n, n)), in table order, into batches of equal n.

    Raises `LoomError` where they would not fit into `MAX_BYTES`.
    """
    needed = sum(16 * len(a) ** 2 for a, _ in halves)
    if needed > MAX_BYTES:
        raise LoomError(
            f"{sum(len(a) for a, _ in halves):,} units are too many to compare at once",
            f"their inner products would take {needed / 2**30:.1f} GiB",
            "narrow the scope to a layer or a module, or take fewer adapters",
        )
    by_size: dict[int, list[int]] = {}
    starts = [0]
    for index, (a, _) in enumerate(halves):
        by_size.setdefault(len(a), []).append(index)
        starts.append(starts[-1] + len(a))
    return tuple(
        Grams(
            torch.tensor([starts[index] for index in group])[:, None] + torch.arange(n),
            torch.stack([halves[index][0] for index in group]),
            torch.stack([halves[index][1] for index in group]),
        )
        for n, group in by_size.items()
    )


def half_grams(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Inner products of the rows of a (n, d_in) and of b (n, d_out), float64; O(n^2 d)."""
    a, b = a.double(), b.double()
    return a @ a.mT, b @ b.mT


def nearest(grams: Sequence[Grams], count: int) -> Nearest:
    """The nearest other unit of each of `count` units by the cosine of the deltas, (a.a')(b.b') / (|a||b||a'||b'|).

    Exact, whatever the map shows. A unit of norm zero has cosine 0 with every other.
    """
    unit = torch.full((count,), -1)
    cosine = torch.zeros(count, dtype=torch.float64)
    for group in grams:
        if group.units.shape[1] < 2:
            continue
        product = group.delta()
        norm = product.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
        product = product / _outer(norm).clamp_min(torch.finfo(torch.float64).tiny)
        value, index = product.diagonal_scatter(torch.full_like(norm, -math.inf), dim1=1, dim2=2).max(-1)
        unit[group.units] = group.units.gather(1, index)
        cosine[group.units] = value.clamp(-1.0, 1.0)
    return Nearest(unit, cosine)


def cluster_units(
    grams: Sequence[Grams],
    count: int,
    k: int,
    *,
    weights: Tensor | None = None,
    n_init: int = 10,
    seed: int = 0,
) -> Tensor:
    """The LEGO cluster of each of `count` units within its module, (count,) int64: k-means on the joint vectors.

    With `weights` (count,), a number for each unit as in `Grams.joint`, these are the clusters that the merge builds.
    """
    labels = torch.full((count,), -1)
    for group in grams:
        labels[group.units] = kmeans(group.joint(weights), k, n_init=n_init, seed=seed).labels
    return labels


def _outer(values: Tensor) -> Tensor:
    return values[..., :, None] * values[..., None, :]
