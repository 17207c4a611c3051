"""The dense softmax: the policy is the mix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.routing.kinds.registry import router_kind

if TYPE_CHECKING:
    from torch import Tensor


@router_kind(
    title="dense softmax",
    source="Jacobs et al. 1991",
    formula="k ω q: all adapters",
    why="Here the policy is the mix: as H(q) falls, so does ESS, down to one adapter if nothing holds it.",
    trained_by="gradient",
)
def softmax(log_q: Tensor, k: int) -> Tensor:
    """All adapters, in learned shares."""
    return k * log_q.softmax(-1)
