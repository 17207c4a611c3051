"""What is read off a router's decisions: effective support, entropy, load, who answers what, and is it right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.routing.ess import effective_support

if TYPE_CHECKING:
    from torch import Tensor

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """Decisions of a router, one a line: the example it belongs to (d,), its weights and its log q, both (d, n)."""

    example: np.ndarray[Any, np.dtype[np.int64]]
    weights: Floats
    log_q: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Measures:
    """Figures of a router over a set of examples.

    `support` and `support_low` are mean and 10th percentile of ESS over decisions; `entropy` is the mean H(q) in nats;
    `largest` the mean share of the heaviest adapter; `load` (n,) the mean share of each adapter, and `load_support` its
    ESS; `heat` (tasks, n) the same by task; `found` the share of decisions whose best adapters are the true ones, None
    where the truth is unknown. `loss` is the mean loss an example under the decisions.
    """

    loss: float
    support: float
    support_low: float
    entropy: float
    largest: float
    load: tuple[float, ...]
    load_support: float
    heat: tuple[tuple[float, ...], ...]
    found: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What is known about the examples: the task of each (N,), the tasks' names, and the true adapters (N, n) or None.

    An example without any true adapter is one whose truth is unknown.
    """

    task: np.ndarray[Any, np.dtype[np.int64]]
    tasks: tuple[str, ...]
    truth: np.ndarray[Any, np.dtype[np.bool_]] | None = None

    def take(self, rows: Sequence[int]) -> Labels:
        """Those of some examples."""
        truth = None if self.truth is None else self.truth[list(rows)]
        return Labels(self.task[list(rows)], self.tasks, truth)


def unlabelled(count: int) -> Labels:
    """Examples of which nothing is known."""
    return Labels(np.zeros(count, np.int64), ("all",))


def measure(decided: Decided, losses: Tensor, labels: Labels) -> Measures:
    """The figures of decisions on examples with these losses and labels, both in the examples' order."""
    shares = np.abs(decided.weights)
    shares = shares / np.maximum(shares.sum(-1, keepdims=True), 1e-12)
    support = effective_support(decided.weights)
    task = labels.task[decided.example]
    load = shares.mean(0)
    heat = [shares[task == i].mean(0) if (task == i).any() else np.zeros_like(load) for i in range(len(labels.tasks))]
    return Measures(
        loss=float(losses.mean()),
        support=float(support.mean()),
        support_low=float(np.percentile(support, 10)),
        entropy=float(-(np.exp(decided.log_q) * decided.log_q).sum(-1).mean()),
        largest=float(shares.max(-1).mean()),
        load=tuple(load.tolist()),
        load_support=float(effective_support(load)),
        heat=tuple(tuple(row.tolist()) for row in heat),
        found=_found(decided, labels),
    )


def _found(decided: Decided, labels: Labels) -> float | None:
    """The share of decisions whose likeliest adapters, as many as are true, are the true ones."""
    if labels.truth is None or not labels.truth.any():
        return None
    truth = labels.truth[decided.example]
    known = truth.any(-1)
    order = np.argsort(-decided.log_q[known], axis=-1, kind="stable")
    hits = np.take_along_axis(truth[known], order, -1)
    count = truth[known].sum(-1)
    inside = np.arange(truth.shape[-1])[None] < count[:, None]
    return float((hits | ~inside).all(-1).mean())
