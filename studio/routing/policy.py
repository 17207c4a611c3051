"""The routing policy of ReMix: k distinct adapters, drawn one after another from q = softmax(P x).

Sampling without replacement is Plackett-Luce; the Gumbel top-k trick draws from it exactly (routing.md 1.2).
All functions take any leading shape (...): examples, or examples by tokens.
"""

from __future__ import annotations

from itertools import permutations
from math import perm
from typing import TYPE_CHECKING, Final

from studio.core.errors import BadRecipe
from studio.core.late import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

CLIP: Final = 10.0
"""Logits beyond +-10 are cut there, so that no adapter's chance is ever lost to rounding (routing.md 1.2)."""
FLOOR: Final = 1e-6
"""The least probability that counts as left once adapters were taken (routing.md 1.2)."""
_MOST: Final = 100_000


def log_policy(logits: Tensor, clip: float = CLIP) -> Tensor:
    """log q (..., n) from logits (..., n)."""
    return logits.clamp(-clip, clip).log_softmax(-1)


def log_probability(log_q: Tensor, chosen: Tensor) -> Tensor:
    """log Q(J) (...) of ordered selections `chosen` (..., k) under log_q (..., n).

    sum_j log q[i_j] - log(1 - sum_{j' < j} q[i_j']), the bracket not below `FLOOR`.
    """
    own = log_q.gather(-1, chosen)
    taken = own.exp().cumsum(-1) - own.exp()
    return (own - (1 - taken).clamp_min(FLOOR).log()).sum(-1)


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
    if not 1 <= k <= n or perm(n, k) > _MOST:
        raise BadRecipe(f"Selections of {k} of {n} cannot be listed", f"at most {_MOST} can", "take fewer")
    return torch.tensor(list(permutations(range(n), k)), dtype=torch.long).reshape(-1, k)


def subset_probability(log_q: Tensor, subset: Tensor) -> Tensor:
    """The chance (...) that sampling takes exactly these adapters (..., k), in any order.

    Above one half, inference by `best` takes the likeliest subset (ReMix, Theorem 2).
    """
    orders = ordered_selections(subset.shape[-1], subset.shape[-1])
    every = torch.stack([log_probability(log_q, subset[..., order]) for order in orders])
    return every.exp().sum(0)
