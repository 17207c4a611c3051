"""The weighted sum cut to a chosen rank, by QR of the factors: no dense matrix is ever built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from studio.core.linalg import Pair, spectrum_of_sum
from studio.merging.registry import Help, Laws, Merged, Range, method

if TYPE_CHECKING:
    from torch import Tensor


@method(
    title="SVD: sum at a chosen rank",
    source="Eckart and Young 1936, by QR of the factors",
    laws=Laws(),
    tier="first",
)
def svd(
    pairs: Sequence[Pair],
    weights: Tensor,
    *,
    rank: Annotated[
        int, Range(1, 512, 1, auto=0), Help("Rank of the result; 0 takes the largest rank among the sources.")
    ] = 0,
) -> Merged:
    """The best approximation of the weighted sum at a chosen rank; the report says how much energy it keeps."""
    rank = rank or max(pair.rank for pair in pairs)
    found = spectrum_of_sum(pairs, weights, rank)
    rank = min(rank, found.S.shape[-1])
    return Merged(found.pair(rank).single(), found.kept(rank))
