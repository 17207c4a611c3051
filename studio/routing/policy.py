"""The routing policy of ReMix: k distinct adapters, drawn one after another from q = softmax(P x).

Sampling without replacement is Plackett-Luce; the Gumbel top-k trick (arXiv 1903.06059) draws from it exactly.
All functions take any leading shape (...): examples, or examples by tokens.
"""

from __future__ import annotations

import math
from itertools import permutations
from typing import TYPE_CHECKING, Final

from studio.core.errors import BadRecipe
from studio.core.late import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

CLIP: Final = 10.0
"""While selections are drawn, logits are cut at +-10, so that every adapter is still tried."""
_MOST: Final = 100_000


def log_policy(logits: Tensor, clip: float | None = None) -> Tensor:
    """log q (..., n) from logits (..., n); inference takes them as they are, since a clip would tie the best."""
    return (logits if clip is None else logits.clamp(-clip, clip)).log_softmax(-1)


def log_probability(log_q: Tensor, chosen: Tensor) -> Tensor:
    """log Q(J) (...) of ordered selections `chosen` (..., k) under log_q (..., n).

    sum_j log q[i_j] - log sum_{i not yet taken} q[i]. Summing what is left, where the paper subtracts what is gone from
    1, is exact however sure the policy is.
    """
    own = log_q.gather(-1, chosen)
    left, total = log_q.expand(*chosen.shape[:-1], log_q.shape[-1]), []
    for taken in chosen.unbind(-1):
        total.append(left.logsumexp(-1))
        left = left.scatter(-1, taken[..., None], -math.inf)
    return (own - torch.stack(total, -1)).sum(-1)


def sample(log_q: Tensor, k: int, generator: Generator) -> Tensor:
    """Ordered selections (..., k): the k largest of log q plus Gumbel noise, in the order of size.

    The noise is drawn on the CPU, so that a seed means the same on every device.
    """
    noise = torch.empty(log_q.shape).exponential_(generator=generator).log().neg()
    return best(log_q.detach() + noise.to(log_q.device), k)


def best(log_q: Tensor, k: int) -> Tensor:
    """The k likeliest adapters (..., k), likeliest first: what inference takes."""
    return log_q.topk(k, -1).indices


def entropy(log_q: Tensor) -> Tensor:
    """H(q) (...) in nats; exp of it is how many adapters the policy is undecided between."""
    return -(log_q.exp() * log_q).sum(-1)


def ordered_selections(n: int, k: int) -> Tensor:
    """All ordered selections (n! / (n - k)!, k), for exact expectations; raises `BadRecipe` for more than 100 000."""
    if not 1 <= k <= n or math.perm(n, k) > _MOST:
        raise BadRecipe(f"Selections of {k} of {n} cannot be listed", f"at most {_MOST} can", "take fewer")
    return torch.tensor(list(permutations(range(n), k)), dtype=torch.long).reshape(-1, k)


def subset_probability(log_q: Tensor, subset: Tensor) -> Tensor:
    """The chance (...) that sampling takes exactly these adapters (..., k), in any order.

    Above one half, inference by `best` takes the likeliest subset (ReMix, Theorem 2).
    """
    orders = ordered_selections(subset.shape[-1], subset.shape[-1])
    every = torch.stack([log_probability(log_q, subset[..., order]) for order in orders])
    return every.exp().sum(0)
