"""Adapters of several modalities side by side, module by module: how strong each is, and how much they share.

Every view comes from thin QR of the factors, B = Q_b R_b and A^T = Q_a R_a, float32, one module at a time; no dense
update is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.core.adapter import Adapter, LoraModule
from studio.core.errors import LoomError
from studio.core.late import torch
from studio.units.pool import layer_of, module_type_of, natural

if TYPE_CHECKING:
    from torch import Tensor

OnStep = Callable[[int, int], None]
Doubles = np.ndarray[Any, np.dtype[np.float64]]
ENERGY = 0.9


@dataclass(frozen=True, slots=True)
class Strength:
    """One adapter in one module, scaling included.

    `norm` is the Frobenius norm of its update; `energy_rank` how many singular directions hold 90 % of its square;
    `effective_rank` exp of the entropy of the singular values' shares (O. Roy and M. Vetterli, 2007); `unit` the norm
    s |a_t| |b_t| of its largest unit.
    """

    rank: int
    norm: float
    energy_rank: int
    effective_rank: float
    unit: float


@dataclass(frozen=True, slots=True)
class Shared:
    """Two adapters in one module: cosine of their updates, and the overlap of their subspaces from 0 to 1.

    `outputs` compares the columns of both B, `inputs` the rows of both A: ||U^T V||_F^2 / min(r). Two random subspaces
    of ranks r and s in d dimensions give max(r, s) / d, which is `chance`: (outputs, inputs).
    """

    cosine: float
    outputs: float
    inputs: float
    chance: tuple[float, float]


@dataclass(frozen=True, slots=True)
class ModuleView:
    """One module: its strengths by adapter, and what each pair (i < j) of adapters shares; None where one lacks it."""

    name: str
    strengths: tuple[Strength | None, ...]
    shared: tuple[Shared | None, ...]

    @property
    def layer(self) -> str:
        """The block it belongs to."""
        return layer_of(self.name)

    @property
    def kind(self) -> str:
        """What it is inside its block."""
        return module_type_of(self.name)


@dataclass(frozen=True, slots=True)
class ModalityViews:
    """All modules of several adapters, in natural order; `pairs` are the adapters that `ModuleView.shared` compares."""

    adapters: tuple[str, ...]
    modules: tuple[ModuleView, ...]

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Indices of the compared adapters."""
        return tuple(combinations(range(len(self.adapters)), 2))

    def heat(self, adapter: int) -> tuple[tuple[str, ...], tuple[str, ...], Doubles]:
        """Layers, kinds of module, and the norms (layers, kinds) of one adapter's updates; NaN where there is none."""
        layers = tuple(dict.fromkeys(view.layer for view in self.modules))
        kinds = tuple(dict.fromkeys(view.kind for view in self.modules))
        norms = np.full((len(layers), len(kinds)), np.nan)
        for view in self.modules:
            strength = view.strengths[adapter]
            if strength is not None:
                norms[layers.index(view.layer), kinds.index(view.kind)] = strength.norm
        return layers, kinds, norms

    def norm(self, adapter: int) -> float:
        """Frobenius norm of one adapter over all modules."""
        found = (view.strengths[adapter] for view in self.modules)
        return float(np.sqrt(sum(strength.norm**2 for strength in found if strength is not None)))

    def rank(self, adapter: int) -> int:
        """The largest rank of one adapter."""
        found = (view.strengths[adapter] for view in self.modules)
        return max((strength.rank for strength in found if strength is not None), default=0)

    def cosine(self, pair: int) -> float:
        """Cosine of two whole adapters."""
        i, j = self.pairs[pair]
        product = 0.0
        for view in self.modules:
            shared, first, second = view.shared[pair], view.strengths[i], view.strengths[j]
            if shared is not None and first is not None and second is not None:
                product += shared.cosine * first.norm * second.norm
        return product / max(self.norm(i) * self.norm(j), np.finfo(float).tiny)


def modality_views(adapters: Sequence[Adapter], on_step: OnStep | None = None) -> ModalityViews:
    """Read all modules once, one at a time; `on_step(done, total)` is called after each.

    Raises `LoomError` for a module that two adapters have in different shapes, and for values that are not finite.
    """
    names = sorted({name for adapter in adapters for name in adapter.modules}, key=natural)
    views = []
    for name in names:
        views.append(_view(name, [adapter.modules.get(name) for adapter in adapters]))
        if on_step is not None:
            on_step(len(views), len(names))
    return ModalityViews(tuple(adapter.name for adapter in adapters), tuple(views))


@dataclass(frozen=True, slots=True, eq=False)
class _Factors:
    """Thin QR of one pair: bases (d_out, r) and (d_in, r), triangles (r, r), the scaling, and the pair's unit norms."""

    out: Tensor
    r_out: Tensor
    inp: Tensor
    r_in: Tensor
    scaling: float
    units: Tensor

    @property
    def rank(self) -> int:
        return int(self.r_out.shape[-1])


def _view(name: str, modules: Sequence[LoraModule | None]) -> ModuleView:
    if len({module.shape for module in modules if module is not None}) > 1:
        raise LoomError(f"{name} has different shapes", "these adapters are for different base models")
    factors = [None if module is None else _factors(module) for module in modules]
    strengths = tuple(None if found is None else _strength(found) for found in factors)
    return ModuleView(name, strengths, tuple(_shared(p, q) for p, q in combinations(factors, 2)))


def _factors(module: LoraModule) -> _Factors:
    a, b = (torch.from_numpy(np.ascontiguousarray(factor, np.float32)) for factor in module)
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise LoomError(f"{module.name} holds numbers that are not finite", next="save the adapter again")
    out, r_out = torch.linalg.qr(b)
    inp, r_in = torch.linalg.qr(a.T)
    units = abs(module.scaling) * a.norm(dim=1) * b.norm(dim=0)
    return _Factors(out, r_out.double(), inp, r_in.double(), module.scaling, units)


def _strength(found: _Factors) -> Strength:
    values = abs(found.scaling) * torch.linalg.svdvals(found.r_out @ found.r_in.T)
    energy, total = values.square(), float(values.square().sum())
    if total == 0:
        return Strength(found.rank, 0.0, 0, 0.0, 0.0)
    share = values / values.sum()
    entropy = -torch.special.xlogy(share, share).sum()
    held = int((energy.cumsum(0) < ENERGY * total).sum()) + 1
    return Strength(found.rank, total**0.5, held, float(entropy.exp()), float(found.units.max()))


def _shared(p: _Factors | None, q: _Factors | None) -> Shared | None:
    if p is None or q is None:
        return None
    outputs, inputs = (p.out.T @ q.out).double(), (p.inp.T @ q.inp).double()
    product = float(((p.r_out.T @ outputs @ q.r_out) * (p.r_in.T @ inputs @ q.r_in)).sum()) * p.scaling * q.scaling
    norms = _norm(p) * _norm(q)
    least, most = min(p.rank, q.rank), max(p.rank, q.rank)
    return Shared(
        max(-1.0, min(1.0, product / norms)) if norms else 0.0,
        float(outputs.square().sum()) / least,
        float(inputs.square().sum()) / least,
        (min(1.0, most / len(p.out)), min(1.0, most / len(p.inp))),
    )


def _norm(found: _Factors) -> float:
    return abs(found.scaling) * float((found.r_out @ found.r_in.T).norm())
