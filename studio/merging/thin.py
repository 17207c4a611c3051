"""Dropping entries at random, as DARE and DELLA do, and rescaling those that stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal

from studio.core.late import torch
from studio.core.linalg import Pair
from studio.merging.dense import Filter, Vote, elect, merged_rows, rows_of, tiles, weighted_sum
from studio.merging.registry import Draw, Help

if TYPE_CHECKING:
    from torch import Tensor

Chance = Callable[["Tensor"], "Tensor | float"]
Combine = Literal["sum", "ties"]
COMBINE_HELP = Help("How the thinned deltas are joined: weighted sum, or sign election.")
Rescale = Literal["paper", "mergekit"]
RESCALE_HELP = Help(
    "How those that stay are rescaled. paper, and PEFT: by one over their chance, so that the average is kept. "
    "mergekit: all alike, so that the sum of magnitudes is kept.",
    advanced=True,
)


class Coins:
    """Uniform random numbers for the entries of source `i`, row after row.

    Each module has a stream of its own, so that the result does not depend on which modules are merged together. They
    are drawn on the CPU, so that every device gets the same.
    """

    def __init__(self, draw: Draw, i: int) -> None:
        names = [f"{draw.seed}/{i}/{module}".encode() for module in draw.modules]
        seeds = [int.from_bytes(blake2b(name, digest_size=7).digest(), "big") for name in names]
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, like: Tensor) -> Tensor:
        """The next rows, of the shape of `like` (modules, rows, columns), float32."""
        drawn = [torch.rand(*like.shape[-2:], generator=stream) for stream in self._streams]
        return torch.stack(drawn).to(like.device).reshape(like.shape)


def drop(delta: Tensor, *, coins: Coins, chance: Chance, is_rescaled: bool = True) -> Tensor:
    """Each entry stays with its chance; divided by it if rescaled."""
    p = chance(delta)
    kept = torch.where(coins(delta) < p, delta, 0.0)
    return kept / p if is_rescaled else kept


def same_chance(delta: Tensor, *, density: float) -> float:
    """DARE: every entry stays with one chance."""
    return density


def thinned(
    pairs: Sequence[Pair],
    weights: Tensor,
    chance: Chance,
    draw: Draw,
    rescale: Rescale,
    combine: Combine,
    vote: Vote,
) -> Tensor:
    """The deltas thinned and joined, (..., d_out, d_in) float32."""
    weights = weights.double()
    filters = partial(_filters, len(pairs), chance, draw, is_rescaled=rescale == "paper")
    if rescale == "paper":
        gains = torch.ones_like(weights)
    else:
        gains = torch.stack([_gain(pair, one) for pair, one in zip(pairs, filters(), strict=True)], -1)
    # A gain scales values, and is no vote: it goes into the filters where signs are elected.
    if combine == "sum":
        return merged_rows(pairs, filters(), partial(weighted_sum, weights=weights * gains))
    scaled = [partial(_scaled, one, gains[..., i, None, None]) for i, one in enumerate(filters())]
    return merged_rows(pairs, scaled, partial(elect, weights=weights, vote=vote))


def _filters(count: int, chance: Chance, draw: Draw, *, is_rescaled: bool) -> list[Filter]:
    return [partial(drop, coins=Coins(draw, i), chance=chance, is_rescaled=is_rescaled) for i in range(count)]


def _gain(pair: Pair, one: Filter) -> Tensor:
    """The sum of magnitudes before the filter over the one after it, (...,); 1 where nothing stays."""
    before = after = torch.zeros(pair.A.shape[:-2], dtype=torch.float64, device=pair.A.device)
    for tile in tiles(pair):
        rows = rows_of(pair, tile)
        before, after = before + rows.abs().sum((-2, -1)), after + one(rows).abs().sum((-2, -1))
    return torch.where(after > 0, before / torch.where(after > 0, after, 1.0), 1.0)


def _scaled(one: Filter, gain: Tensor, delta: Tensor) -> Tensor:
    return gain * one(delta)
