"""How much adapters have in common: inner products of their deltas, module by module, without building one.

<dW_i, dW_j> = tr((A_i A_j^T)(B_j^T B_i)) with the scaling inside, O(r^2 d).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from studio.core.adapter import Adapter
from studio.core.late import torch
from studio.units.gram import half_grams
from studio.units.pool import EVERYTHING, Place, Pool, Scope, places_of, pools

Doubles = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """Inner products between N adapters: `modules` (M, N, N) in the order of `places`, and `total` (N, N), their sum.

    An adapter that lacks a module counts as zero there.
    """

    adapters: tuple[str, ...]
    places: tuple[Place, ...]
    modules: Doubles

    @property
    def total(self) -> Doubles:
        """Over all modules, (N, N)."""
        return np.asarray(self.modules.sum(0))

    @property
    def cosines(self) -> Doubles:
        """Of the whole adapters, (N, N)."""
        return cosines(self.total)


def overlap(
    adapters: Sequence[Adapter],
    *,
    scope: Scope = EVERYTHING,
    on_step: Callable[[int, int], None] | None = None,
) -> Overlap:
    """All pairwise inner products, read one module at a time; `on_step(done, total)` is called after each."""
    total = len(places_of(adapters, scope))
    places, products = [], []
    for pool in pools(adapters, form="raw", scope=scope):
        places.append(pool.place)
        products.append(_products(pool, len(adapters)))
        if on_step is not None:
            on_step(len(places), total)
    modules = np.stack(products) if products else np.zeros((0, len(adapters), len(adapters)))
    return Overlap(tuple(adapter.name for adapter in adapters), tuple(places), modules)


def gram(adapters: Sequence[Adapter]) -> Doubles:
    """Inner products of the whole adapters, (N, N) float64."""
    return overlap(adapters).total


def cosines(gram: Doubles) -> Doubles:
    """Cosines (..., N, N) of a Gram matrix; 0 with anything of norm zero, itself included."""
    norm = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1).clip(0))
    scale = norm[..., :, None] * norm[..., None, :]
    cosine: Doubles = np.divide(gram, scale, out=np.zeros_like(gram), where=scale > 0).clip(-1, 1)
    return cosine


def _products(pool: Pool, count: int) -> Doubles:
    """Sum the inner products of the rank-one units over the units of each pair of adapters, (count, count)."""
    a, b = half_grams(pool.a, pool.b)
    owner = torch.nn.functional.one_hot(pool.adapter, count).double()
    products: Doubles = (owner.mT @ (a * b) @ owner).numpy()
    return products
