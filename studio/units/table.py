"""All units of several adapters in one pass: a table, their inner products, and coordinates to lay them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.core.adapter import Adapter
from studio.core.late import torch
from studio.units.gram import Grams, batch, half_grams
from studio.units.pool import EVERYTHING, Form, Place, Pool, Scope, places_of, pools
from studio.units.sketch import projections, sketch

if TYPE_CHECKING:
    from torch import Tensor

Ints = np.ndarray[Any, np.dtype[np.int32]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
OnStep = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class UnitTable:
    """One row a unit, in the order module, adapter, rank index; N rows.

    `adapter` and `module` index into `adapters` and `places`. `norm` is |a||b|. The energy of a unit is |a|^2 |b|^2:
    `energy` is its share within its adapter's units in scope, `module_energy` within its adapter's part of its module;
    a share of nothing is 0. Canonical units are orthogonal, so theirs are shares of the adapter's squared norm.
    """

    adapters: tuple[str, ...]
    places: tuple[Place, ...]
    form: Form
    adapter: Ints
    module: Ints
    rank: Ints
    norm: Floats
    energy: Floats
    module_energy: Floats

    def __len__(self) -> int:
        return len(self.adapter)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Units:
    """The table (N rows), the inner products within each module, and the features (N, d) float32 to lay out.

    Hold on to it while adapters, form and scope stay the same: every slider works from it.
    """

    table: UnitTable
    grams: tuple[Grams, ...]
    features: Floats


def units_of(
    adapters: Sequence[Adapter],
    *,
    form: Form = "canonical",
    scope: Scope = EVERYTHING,
    size: int = 64,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Units:
    """Read the adapters once and keep what the map needs; `on_step(done, total)` is called after each module.

    The features of many modules are the sketch of `studio.units.sketch`, (N, 2 size). Those of a single module are
    exact: the joint vectors [a; b] in coordinates of their own span, so that distances are the ones LEGO clusters by.
    """
    places = places_of(adapters, scope)
    matrices = projections(places, size=size, seed=seed) if len(places) > 1 else {}
    found: list[_Part] = []
    for pool in pools(adapters, form=form, scope=scope):
        found.append(_part(pool, partial(sketch, matrices=matrices) if matrices else None))
        if on_step is not None:
            on_step(len(found), len(places))
    grams = batch([part.halves for part in found])
    table = _table([adapter.name for adapter in adapters], form, found)
    if not found:
        return Units(table, grams, np.zeros((0, 2), np.float32))
    features = torch.cat([part.features for part in found]).numpy() if matrices else _span(grams[0].joint()[0])
    return Units(table, grams, features)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What one pool leaves behind once its vectors are let go."""

    place: Place
    adapter: Tensor
    rank: Tensor
    halves: tuple[Tensor, Tensor]
    features: Tensor


def _part(pool: Pool, features: Callable[[Pool], Tensor] | None) -> _Part:
    none = torch.zeros((len(pool.adapter), 0))
    return _Part(pool.place, pool.adapter, pool.rank, half_grams(pool.a, pool.b), features(pool) if features else none)


def _table(names: Sequence[str], form: Form, parts: Sequence[_Part]) -> UnitTable:
    adapter = _column([part.adapter for part in parts])
    module = np.repeat(np.arange(len(parts)), [len(part.adapter) for part in parts])
    energies = [part.halves[0].diagonal() * part.halves[1].diagonal() for part in parts]
    energy = torch.cat(energies).numpy() if energies else np.zeros(0)
    return UnitTable(
        tuple(names),
        tuple(part.place for part in parts),
        form,
        adapter.astype(np.int32),
        module.astype(np.int32),
        _column([part.rank for part in parts]).astype(np.int32),
        np.sqrt(energy).astype(np.float32),
        _share(energy, adapter),
        _share(energy, module * max(len(names), 1) + adapter),
    )


def _column(values: Sequence[Tensor]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return torch.cat(list(values)).numpy() if values else np.zeros(0, np.int64)


def _share(energy: np.ndarray[Any, np.dtype[np.float64]], group: np.ndarray[Any, np.dtype[np.int64]]) -> Floats:
    total = np.bincount(group, energy, minlength=1)[group]
    share: Floats = np.divide(energy, total, out=np.zeros_like(energy), where=total > 0).astype(np.float32)
    return share


def _span(gram: Tensor) -> Floats:
    """Coordinates (n, n) whose inner products are the Gram matrix: classical scaling, strongest axis first."""
    values, vectors = torch.linalg.eigh(gram)
    coordinates: Floats = (vectors * values.clamp_min(0).sqrt()).flip(-1).float().numpy()
    return coordinates
