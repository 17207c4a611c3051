"""DARE: drop entries at random and rescale the rest, so that the expected delta stays; then sum, or TIES."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

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
from studio.merging.thin import COMBINE_HELP, RESCALE_HELP, Combine, Rescale, same_chance, thinned

if TYPE_CHECKING:
    from torch import Tensor

    from studio.core.linalg import Pair


@method(
    title="DARE: drop and rescale",
    source="Yu et al. 2023, arXiv 2311.03099; rescaled by 1/density",
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
    combine: Annotated[Combine, COMBINE_HELP] = "sum",
    rank: Annotated[int, OUTPUT_RANGE, OUTPUT_HELP] = 0,
    rescale: Annotated[Rescale, RESCALE_HELP] = "paper",
    election: Annotated[Election, ELECTION_HELP] = "mergekit",
    mean: Annotated[Mean, MEAN_HELP] = "peft",
) -> Merged:
    """Drops entries of each delta at random, rescales the rest so that the average stays, and joins them.

    A source alone comes back whole. The order of sources decides which random numbers each one gets.
    """
    if len(pairs) == 1:
        return Merged(weighted(pairs, weights))
    chance = partial(same_chance, density=density)
    return refit(thinned(pairs, weights, chance, draw, rescale, combine, Vote(election, mean)), pairs, rank)
