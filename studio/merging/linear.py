"""Factor-space averaging, as PEFT's `linear` does it: kept so that its error can be seen, not for use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from studio.core.late import torch
from studio.core.linalg import Pair
from studio.merging.registry import Laws, Merged, method

if TYPE_CHECKING:
    from torch import Tensor


@method(
    title="Linear in factors (legacy)",
    source="PEFT `linear`; wrong by design",
    laws=Laws(gauge=False),
    tier="legacy",
)
def linear(pairs: Sequence[Pair], weights: Tensor) -> Merged:
    """Adds A to A and B to B, which mixes every adapter with every other; for comparison only, wrong by design.

    B A = sum_i w_i dW_i + the cross terms sqrt(|w_i w_j|) B_i A_j. Smaller ranks are padded with zeros.
    """
    rank = max(pair.rank for pair in pairs)
    scaled = [_padded(pair.scaled(weights[..., i]), rank) for i, pair in enumerate(pairs)]
    return Merged(Pair(*(torch.stack(factors).sum(0) for factors in zip(*scaled, strict=True))))


def _padded(pair: Pair, rank: int) -> Pair:
    missing = rank - pair.rank
    return Pair(torch.nn.functional.pad(pair.A, (0, 0, 0, missing)), torch.nn.functional.pad(pair.B, (0, missing)))
