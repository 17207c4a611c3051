"""Effective support size: how many adapters really take part, and why a fresh softmax router soon uses one.

ESS(pi) = (sum |pi_i|)^2 / sum pi_i^2 is 1 for a one-hot mix and n for an even one. A ReMix mix has ESS = k by
construction. Plain NumPy: the page's slider needs nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from studio.core.errors import BadRecipe

Values = np.ndarray[Any, np.dtype[np.float64]]


def effective_support(weights: Any) -> Values:
    """ESS (...) of mixing weights (..., n); 0 where all are zero."""
    found = np.abs(np.asarray(weights, np.float64))
    largest = found.max(-1, keepdims=True)
    scaled = np.divide(found, largest, out=np.zeros_like(found), where=largest > 0)  # squares that cannot vanish
    squares = np.square(scaled).sum(-1)
    return np.asarray(np.divide(scaled.sum(-1) ** 2, squares, out=np.zeros_like(squares), where=squares > 0))


def support_bound(norm: float, delta: float, n: int = 8) -> float:
    """Theorem 1: with probability at least 1 - delta, ESS is at most this, as the paper prints it (arXiv 2603.10160).

    `norm` is sigma ||x||, the scale of the logits at the start, where P ~ N(0, sigma^2).
    """
    _check(norm, n)
    exponent = delta * norm / _spread(n) - math.log(n - 1)
    return (1 + math.exp(-min(max(exponent, -300.0), 300.0))) ** 2


def bound_probability(norm: float, support: float = 2.0, n: int = 8) -> float:
    """The least probability of ESS <= `support` that Theorem 1 grants; 0 where it says nothing.

    For norm 32 and n = 8 this is 67.5 %; the paper quotes 84.19 %, which its printed bound does not give.
    """
    _check(norm, n)
    if support <= 1:
        return 0.0
    wanted = -math.log(math.sqrt(support) - 1) + math.log(n - 1)
    return min(max(1 - wanted * _spread(n) / norm, 0.0), 1.0)


def _spread(n: int) -> float:
    """The denominator of Theorem 1's exponent."""
    tail = 1 / (math.sqrt(2 * math.pi) * 2 ** (n - math.log2(n) - 1))
    return 1.5 * math.sqrt(math.pi / math.log(3)) * math.sqrt(math.log(n)) + tail


def _check(norm: float, n: int) -> None:
    if not 0 < norm < math.inf or not 2 <= n <= 1024:
        raise BadRecipe(f"A logit scale of {norm:g} over {n} adapters is out of bounds", "2 to 1024, scale above 0")


@dataclass(frozen=True, slots=True, eq=False)
class Collapse:
    """Fresh softmax routers of one logit scale: the ESS (draws,) of each, ascending."""

    norm: float
    n: int
    support: Values

    @property
    def mean(self) -> float:
        """The mean ESS."""
        return float(self.support.mean())

    def share_below(self, support: float = 2.0) -> float:
        """The share of draws whose ESS is at most this."""
        return float(np.searchsorted(self.support, support, side="right") / len(self.support))


def collapse(norm: float, n: int = 8, *, draws: int = 100_000, seed: int = 0) -> Collapse:
    """Draw softmax routers P ~ N(0, sigma^2) at one input: the logits are sigma ||x|| times standard normals."""
    _check(norm, n)
    if not 1 <= draws <= 10_000_000:
        raise BadRecipe(f"{draws} draws are out of bounds", "between 1 and 10 million")
    logits = norm * np.random.default_rng(seed).standard_normal((draws, n))
    q = np.exp(logits - logits.max(-1, keepdims=True))
    return Collapse(norm, n, np.sort(effective_support(q)))
