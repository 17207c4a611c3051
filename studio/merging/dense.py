"""What the elementwise methods share: dense deltas one source at a time, and the way back to a pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from studio.late import torch
from studio.linalg import Pair, truncate_dense
from studio.merging.registry import Draw, Help, Merged, Range

if TYPE_CHECKING:
    from torch import Tensor

OUTPUT_RANGE = Range(1, 512, 1, auto=0)
OUTPUT_HELP = Help("Rank of the result; 0 takes the sum of the sources' ranks.")
Take = Callable[[int], "Tensor"]


def refit(delta: Tensor, pairs: Sequence[Pair], rank: int) -> Merged:
    """The dense result as the best pair of `rank`, or of the sources' ranks together when `rank` is 0."""
    pair, kept = truncate_dense(delta, rank or sum(pair.rank for pair in pairs))
    return Merged(pair.single(), kept)


def threshold(delta: Tensor, density: float) -> Tensor:
    """The magnitude of the smallest entry among the share `density` of largest ones, (..., 1, 1); 0 where all stay."""
    flat = delta.abs().flatten(-2)
    keep = max(1, round(density * flat.shape[-1]))
    if keep >= flat.shape[-1]:
        return torch.zeros_like(flat[..., :1, None])
    return flat.kthvalue(flat.shape[-1] - keep + 1, dim=-1).values[..., None, None]


def trim(delta: Tensor, smallest: Tensor) -> Tensor:
    """The entries (..., d_out, d_in) of at least this magnitude; the others become 0."""
    return torch.where(delta.abs() >= smallest, delta, 0.0)


def weighted_sum(take: Take, weights: Tensor) -> Tensor:
    """sum_i w_i T_i, with T_i = take(i) dense and taken one at a time."""
    total = weights[..., 0, None, None] * take(0)
    for i in range(1, weights.shape[-1]):
        total += weights[..., i, None, None] * take(i)
    return total


def elect(take: Take, weights: Tensor) -> Tensor:
    """TIES' merge: at each entry, the mean of the weighted values whose sign agrees with the sign of their sum.

    Two passes over the sources, so that three dense matrices are held whatever their number; 0 elects "+".
    """
    sign = torch.where(weighted_sum(take, weights) >= 0, 1.0, -1.0).to(weights)
    total = torch.zeros_like(sign)
    count = torch.zeros_like(sign)
    for i in range(weights.shape[-1]):
        value = weights[..., i, None, None] * take(i)
        agrees = value * sign > 0
        total += torch.where(agrees, value, 0.0)
        count += agrees
    return total / count.clamp_min(1)


def coins(like: Tensor, draw: Draw, i: int) -> Tensor:
    """Uniform random numbers for source `i`, of the shape of `like` (modules, rows, columns).

    Each module has a stream of its own, so that the result does not depend on which modules are merged together.
    """
    shape = like.shape[-2:]
    streams = [f"{draw.seed}/{i}/{name}".encode() for name in draw.modules]
    seeds = [int.from_bytes(blake2b(stream, digest_size=7).digest(), "big") for stream in streams]
    drawn = [torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(like.device).reshape(like.shape)
