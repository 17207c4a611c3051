"""The top-k softmax: the mix is the policy, cut to the k best."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from studio.core.late import torch
from studio.routing.kinds.registry import router_kind
from studio.routing.policy import best

if TYPE_CHECKING:
    from torch import Tensor


@router_kind(
    title="top-k softmax",
    source="MixLoRA, arXiv 2404.15159; without its balance loss",
    formula="k ω q over the k best, renormalised",
    why="Here the policy is the mix of the k best: as H(q) falls, ESS may fall from k towards 1.",
    trained_by="gradient",
    sparse=True,
    least_k=2,  # the share of a single adapter is always 1
)
def topk(log_q: Tensor, k: int) -> Tensor:
    """The k likeliest adapters, in learned shares."""
    inside = torch.zeros_like(log_q).scatter(-1, best(log_q, k), 1.0).bool()
    return k * log_q.masked_fill(~inside, -math.inf).softmax(-1)
