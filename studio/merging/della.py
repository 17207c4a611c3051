"""DELLA: drop at random, but the small entries of each row sooner than the large; rescale; then sum, or TIES."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

from studio.core.late import torch
from studio.merging.cat import weighted
from studio.merging.dense import (
    ELECTION_HELP,
    MEAN_HELP,
    OUTPUT_HELP,
    OUTPUT_RANGE,
    Election,
    Mean,
    Vote,
    refit,
)
from studio.merging.registry import Draw, Help, Laws, Merged, Range, method
from studio.merging.thin import COMBINE_HELP, RESCALE_HELP, Combine, Rescale, thinned

if TYPE_CHECKING:
    from torch import Tensor

    from studio.core.linalg import Pair


@method(
    title="DELLA: drop the small sooner",
    source="Deep et al. 2024, arXiv 2406.11617",
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
        Help("A row's smallest entry stays with density - epsilon, its largest with + epsilon; cut to fit 0 to 1."),
    ] = 0.1,
    combine: Annotated[Combine, COMBINE_HELP] = "ties",
    rank: Annotated[int, OUTPUT_RANGE, OUTPUT_HELP] = 0,
    rescale: Annotated[Rescale, RESCALE_HELP] = "paper",
    election: Annotated[Election, ELECTION_HELP] = "mergekit",
    mean: Annotated[Mean, MEAN_HELP] = "peft",
) -> Merged:
    """Drops entries at random, small ones sooner, rescales the rest so that the average stays, and joins them.

    A source alone comes back whole. The order of sources decides which random numbers each one gets.
    """
    if len(pairs) == 1:
        return Merged(weighted(pairs, weights))
    spread = reach(density, epsilon)
    chance = partial(chance_by_place, low=density - spread, high=density + spread)
    return refit(thinned(pairs, weights, chance, draw, rescale, combine, Vote(election, mean)), pairs, rank)


def reach(density: float, epsilon: float) -> float:
    """Epsilon, cut on both sides alike, so that the mean chance stays `density` and no entry is without one."""
    return min(epsilon, 0.9 * density, 1 - density)


def chance_by_place(delta: Tensor, *, low: float, high: float) -> Tensor:
    """`low` for the smallest magnitude of each row, `high` for the largest, evenly spaced between; as `delta`."""
    order = delta.abs().argsort(dim=-1, stable=True)
    ladder = torch.linspace(low, high, delta.shape[-1], dtype=delta.dtype, device=delta.device)
    return torch.empty_like(delta).scatter_(-1, order, ladder.expand_as(delta))
