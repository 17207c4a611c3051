"""What a trained router stands beside without training: uniform mixing, fixed selections, the brute-force oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Final

import numpy as np

from studio.core.errors import BadRecipe, Cancelled
from studio.core.late import torch
from studio.learning.fit import Stop
from studio.routing.measures import Decided, measure
from studio.routing.text import Judged, TextWorld

if TYPE_CHECKING:
    from torch import Tensor

ORACLE_LIMIT: Final = 200
"""Subsets beyond which brute force is refused."""


@dataclass(frozen=True, slots=True, eq=False)
class Fixed:
    """Decides alike for every input: these weights (n,)."""

    weights: Tensor

    def __call__(self, x: Tensor, group: int = 0, mask: Tensor | None = None) -> Tensor:
        """The weights, for each row and token."""
        return self.weights.expand(*x.shape[:-1], -1)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Every subset of k choices tried on some rows: `subsets` (s, k), losses and exact answers, both (rows, s)."""

    names: tuple[str, ...]
    subsets: tuple[tuple[int, ...], ...]
    losses: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    right: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

    def weights(self, omega: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """The mixing weights (s, n) of each subset."""
        found = np.zeros((len(self.subsets), len(self.names)))
        for row, subset in enumerate(self.subsets):
            found[row, list(subset)] = omega
        return found


def try_subsets(
    world: TextWorld,
    k: int,
    rows: Tensor,
    *,
    omega: float = 1.0,
    on_step: Callable[[int, int, str], None] | None = None,
    stop: Stop | None = None,
) -> Table:
    """Answer rows by every subset of k. Raises `BadRecipe` for more than `ORACLE_LIMIT` of them."""
    n = len(world.names)
    if not 1 <= k <= n or comb(n, k) > ORACLE_LIMIT:
        why = f"{comb(n, k)} subsets of {k} in {n} are too many to try; {ORACLE_LIMIT} can be"
        raise BadRecipe("There is no oracle here", why, "choose among fewer adapters")
    subsets = tuple(combinations(range(n), k))
    losses, right = np.zeros((len(rows), len(subsets))), np.zeros((len(rows), len(subsets)), dtype=bool)
    for column, subset in enumerate(subsets):
        if stop and stop():
            raise Cancelled("The oracle was stopped")
        weights = torch.zeros(n, device=world.table.ids.device)
        weights[list(subset)] = omega
        with torch.no_grad():
            found = [world.answers(part, Fixed(weights)) for part in torch.split(rows, 32)]
        losses[:, column] = torch.cat([one[0] for one in found]).cpu().numpy()
        right[:, column] = torch.cat([one[1] for one in found]).cpu().numpy()
        if on_step:
            on_step(column + 1, len(subsets), "oracle")
    return Table(world.names, subsets, losses, right)


def oracle(world: TextWorld, k: int, rows: Tensor, *, omega: float = 1.0, table: Table | None = None) -> Judged:
    """The subset of least loss for each row: it has seen the answer, so no router can do better by loss."""
    table = table or try_subsets(world, k, rows, omega=omega)
    best = table.losses.argmin(1)
    each = np.arange(len(rows))
    weights = table.weights(omega)[best]
    log_q = np.log(np.where(weights > 0, 1 / k, 1e-12))
    losses = torch.from_numpy(table.losses[each, best])
    labels = world.labels.take(rows.tolist())
    return Judged(measure(Decided(each, weights, log_q), losses, labels), table.right[each, best])
