"""TIES: trim, elect a sign, average those who agree; on the dense delta, then back to a pair."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

from studio.merging.cat import weighted
from studio.merging.dense import OUTPUT_HELP, OUTPUT_RANGE, elect, refit, threshold, trim
from studio.merging.registry import Help, Laws, Merged, Range, method

if TYPE_CHECKING:
    from torch import Tensor

    from studio.linalg import Pair


@method(
    title="TIES: trim and elect signs",
    source="Yadav et al. 2023, arXiv 2306.01708; spec merging 4",
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
) -> Merged:
    """Keeps each delta's largest entries, lets them vote on a sign, and averages the ones that agree.

    A source alone has nothing to disagree with and comes back whole, untrimmed.
    """
    if len(pairs) == 1:
        return Merged(weighted(pairs, weights))
    wide = [pair.double() for pair in pairs]
    smallest = [threshold(pair.delta(), density) for pair in wide]
    return refit(elect(partial(_trimmed, wide, smallest), weights.double()), pairs, rank)


def _trimmed(pairs: Sequence[Pair], smallest: Sequence[Tensor], i: int) -> Tensor:
    return trim(pairs[i].delta(), smallest[i])
