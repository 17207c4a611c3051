"""Concatenation: the exact weighted sum, at the price of rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from studio.core.linalg import Pair, stack
from studio.merging.registry import Laws, Merged, method

if TYPE_CHECKING:
    from torch import Tensor


def weighted(pairs: Sequence[Pair], weights: Tensor) -> Pair:
    """The pair of sum_i w_i dW_i, of rank sum(r_i)."""
    return stack([pair.scaled(weights[..., i]) for i, pair in enumerate(pairs)])


@method(
    title="Cat: exact sum",
    source="exact by construction; PEFT `cat`",
    laws=Laws(exact=True),
    tier="first",
)
def cat(pairs: Sequence[Pair], weights: Tensor) -> Merged:
    """The weighted sum of the deltas, exact; ranks add up."""
    return Merged(weighted(pairs, weights))
