"""DELLA: drop at random, but the small entries of each row sooner than the large; rescale; then sum, or TIES."""

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
    title="DELLA: drop the small sooner",
    source="Deep et al. 2024, arXiv 2406.11617; spec merging 4",
    laws=Laws(order=False),
    space="delta",
    default_weight="one",
)
def della(
    pairs: Sequence[Pair],
    weights: Tensor,
    *,
    draw: Draw,
    density: Annotated[float, Range(0.01, 1, 0.01), Help("Mean chance that an entry stays.")] = 0.5,
    epsilon: Annotated[
        float,
        Range(0, 0.5, 0.01),
        Help("The smallest entry of a row stays with density - epsilon, the largest with + epsilon."),
    ] = 0.1,
    combine: Annotated[
        Literal["ties", "sum"], Help("How the thinned deltas are joined: sign election, or weighted sum.")
    ] = "ties",
    rank: Annotated[int, OUTPUT_RANGE, OUTPUT_HELP] = 0,
) -> Merged:
    """Drops entries at random, small ones sooner, rescales the rest so that the average stays, and joins them.

    A source alone comes back whole. The order of sources decides which random numbers each one gets.
    """
    if len(pairs) == 1:
        return Merged(weighted(pairs, weights))
    low, high = max(density - epsilon, 0.01), min(density + epsilon, 1.0)
    take = partial(_thinned, [pair.double() for pair in pairs], low, high, draw)
    join = elect if combine == "ties" else weighted_sum
    return refit(join(take, weights.double()), pairs, rank)


def _thinned(pairs: Sequence[Pair], low: float, high: float, draw: Draw, i: int) -> Tensor:
    """Each row's entries, ranked by magnitude, kept with a chance that grows from `low` to `high`, divided by it."""
    delta = pairs[i].delta()
    order = delta.abs().argsort(dim=-1, stable=True)
    ladder = torch.linspace(0, 1, delta.shape[-1], dtype=delta.dtype, device=delta.device)
    place = torch.empty_like(delta).scatter_(-1, order, ladder.expand_as(delta))
    chance = low + (high - low) * place
    return torch.where(coins(delta, draw, i) < chance, delta / chance, 0.0)
