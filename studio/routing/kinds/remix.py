"""ReMix: the softmax is only a policy to draw from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.core.late import torch
from studio.routing.kinds.registry import router_kind
from studio.routing.policy import best

if TYPE_CHECKING:
    from torch import Tensor


@router_kind(
    title="ReMix",
    source="arXiv 2603.10160",
    formula="ω for each of the k best",
    why="H(q) is meant to fall: the router makes up its mind. The mixing weights stay flat: ESS is k, always.",
    trained_by="draws",
    sparse=True,
)
def remix(log_q: Tensor, k: int) -> Tensor:
    """The k likeliest adapters, the same weight for each."""
    return torch.zeros_like(log_q).scatter(-1, best(log_q, k), 1.0)
