"""DARE: drop entries at random and rescale the rest, so that the expected delta stays; then sum, or TIES."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from studio.late import torch
from studio.merging.cat import weighted
from studio.merging.dense import OUTPUT_HELP, OUTPUT_RANGE, coins, elect, refit, weighted_sum
from studio.merging.registry import Draw, Help, Laws, Merged, Range, method

if TYPE_CHECKING:
    from torch import Tensor

    from studio.linalg import Pair


@method(
    title="DARE: drop and rescale",
    source="Yu et al. 2023, arXiv 2311.03099; rescaled by 1/density (spec P5)",
    laws=Laws(order=False),
    space="delta",
    default_weight="one",
)
def dare(
    pairs: Sequence[Pair],
    weights: Tensor,
    *,
    draw: Draw,
    density: Annotated[
        float, Range(0.01, 1, 0.01), Help("Chance that an entry stays; those that stay are divided by it.")
    ] = 0.5,
    combine: Annotated[
        Literal["sum", "ties"], Help("How the thinned deltas are joined: weighted sum, or sign election.")
    ] = "sum",
    rank: Annotated[int, OUTPUT_RANGE, OUTPUT_HELP] = 0,
) -> Merged:
    """Drops entries of each delta at random, rescales the rest so that the average stays, and joins them.

    A source alone comes back whole. The order of sources decides which random numbers each one gets.
    """
    if len(pairs) == 1:
        return Merged(weighted(pairs, weights))
    take = partial(_thinned, [pair.double() for pair in pairs], density, draw)
    join = elect if combine == "ties" else weighted_sum
    return refit(join(take, weights.double()), pairs, rank)


def _thinned(pairs: Sequence[Pair], density: float, draw: Draw, i: int) -> Tensor:
    delta = pairs[i].delta()
    return torch.where(coins(delta, draw, i) < density, delta / density, 0.0)
