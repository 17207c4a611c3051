"""The even mix, which no router has to learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.core.late import torch
from studio.routing.kinds.registry import router_kind

if TYPE_CHECKING:
    from torch import Tensor


@router_kind(
    title="all, evenly",
    source="a baseline",
    formula="k ω / n each",
    why="Every adapter has the same share, whatever is asked.",
    trained_by="nothing",
)
def uniform(log_q: Tensor, k: int) -> Tensor:
    """All adapters, the same weight for each."""
    return torch.full_like(log_q, k / log_q.shape[-1])
