"""REINFORCE leave-one-out: how a router learns from the losses of the selections it drew (arXiv 2603.10160).

For M independent selections of one input, 1/(M-1) sum_m (L_m - mean L) grad log Q(J_m) is an unbiased gradient of the
expected loss. Advantages are taken for each example, not over the batch: the baseline is that example's own difficulty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.core.errors import BadRecipe

if TYPE_CHECKING:
    from torch import Tensor


def advantages(losses: Tensor) -> Tensor:
    """L_m - mean over m, without gradient, from losses (M, examples). Raises `BadRecipe` for M below 2."""
    if len(losses) < 2:
        raise BadRecipe("One selection an example has no other to compare with", next="draw at least two")
    fixed = losses.detach()
    return fixed - fixed.mean(0)


def surrogate(losses: Tensor, log_probability: Tensor) -> Tensor:
    """The scalar to backpropagate, from losses and log Q, both (M, examples), averaged over the examples.

    Its first term gives what adapters in training need, the ordinary gradient under the sampled selections; its second
    the router's: log Q must depend on the router alone.
    """
    policy = (advantages(losses) * log_probability).sum(0) / (len(losses) - 1)
    return (losses.mean(0) + policy).mean()
