"""TIES: trim, elect a sign, average those who agree; on the dense delta, then back to a pair."""

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
    elect,
    entries,
    merged_rows,
    nth_largest,
    refit,
    trim,
)
from studio.merging.registry import Help, Laws, Merged, Range, method

if TYPE_CHECKING:
    from torch import Tensor

    from studio.core.linalg import Pair


@method(
    title="TIES: trim and elect signs",
    source="Yadav et al. 2023, arXiv 2306.01708",
    laws=Laws(),
    space="delta",
    default_weight="one",
)
def ties(
    pairs: Sequence[Pair],
    weights: Tensor,
    *,
    density: Annotated[
        float, Range(0.01, 1, 0.01), Help("Share of each delta's entries that stays, the largest first.")
    ] = 0.5,
    rank: Annotated[int, OUTPUT_RANGE, OUTPUT_HELP] = 0,
    election: Annotated[Election, ELECTION_HELP] = "mergekit",
    mean: Annotated[Mean, MEAN_HELP] = "peft",
) -> Merged:
    """Keeps each delta's largest entries, lets them vote on a sign, and averages the ones that agree.

    A source alone has nothing to disagree with and comes back whole, untrimmed.
    """
    if len(pairs) == 1:
        return Merged(weighted(pairs, weights))
    filters = [partial(trim, smallest=nth_largest(pair, entries(pair, density))) for pair in pairs]
    join = partial(elect, weights=weights.double(), vote=Vote(election, mean))
    return refit(merged_rows(pairs, filters, join), pairs, rank)
