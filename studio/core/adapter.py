"""One adapter, whatever file it came from: modules by the base model's dotted path, each a scaled low-rank pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from studio.core.account import MADE_HERE, Account, ScalingRow, ScalingSource, TensorRow
from studio.core.errors import LoomError
from studio.core.source_file import SourceFile
from studio.core.tensors import Array, TensorRef

Level = Literal["note", "warn", "stop"]
Kind = Literal["linear", "conv", "embedding", "expert"]
AnyFloats = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True, slots=True)
class Finding:
    """Expected trouble with an adapter: what it is, why it matters, what to do next. `stop` means it cannot be used."""

    level: Level
    text: str
    module: str | None = None


def delta_scale(rank: int, alpha: float, rslora: bool = False) -> float:
    """The factor s in dW = s B A: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (arXiv:2312.03732)."""
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def pair_norm(a: AnyFloats, b: AnyFloats) -> float:
    """Frobenius norm of B A without building it, sqrt(tr(A A^T B^T B)) in float64: O(rank^2 (d_in + d_out))."""
    a64, b64 = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        square = float(np.sum((a64 @ a64.T) * (b64.T @ b64)))
    return math.sqrt(max(square, 0.0)) if math.isfinite(square) else square


@runtime_checkable
class HasNorm(Protocol):
    """A loader that knows its product's Frobenius norm better than by its factors."""

    def norm(self) -> float:
        """Frobenius norm of B A, without the scaling."""


@dataclass(frozen=True, slots=True, eq=False)
class LoraModule:
    """The pair that adapts one target module: dW = scaling * B @ A, of shape (d_out, d_in).

    Convolutions are flattened: d_in counts in_channels * kernel height * kernel width, and `kernel` gives the last two
    back. An embedding's pair has d_in = vocabulary and d_out = width. `load` reads A (rank, d_in) and B (d_out, rank)
    as float32. `keys` are the stored tensors that it is made of, `source` says who gives the scaling.
    """

    name: str
    rank: int
    d_in: int
    d_out: int
    scaling: float
    load: Callable[[], tuple[Array, Array]]
    kind: Kind = "linear"
    kernel: tuple[int, ...] | None = None
    dtype: str = "F32"
    origin: str = "lora"
    stored_alpha: float | None = None
    keys: tuple[str, ...] = ()
    source: ScalingSource = MADE_HERE

    @property
    def A(self) -> Array:
        """The down matrix, (rank, d_in), without the scaling."""
        return self.load()[0]

    @property
    def B(self) -> Array:
        """The up matrix, (d_out, rank), without the scaling."""
        return self.load()[1]

    def __iter__(self) -> Iterator[Array]:
        """`A, B = module`."""
        return iter(self.load())

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        return self.d_out, self.d_in

    @property
    def alpha(self) -> float:
        """The alpha that the file gives, else the one that makes this scaling by alpha / r."""
        return self.scaling * self.rank if self.stored_alpha is None else self.stored_alpha

    def delta(self) -> Array:
        """The dense update, (d_out, d_in), scaling included."""
        a, b = self.load()
        return np.asarray((self.scaling * b) @ a, np.float32)

    def norm(self) -> float:
        """Frobenius norm of the update, scaling included, without building it."""
        return abs(self.scaling) * (self.load.norm() if isinstance(self.load, HasNorm) else pair_norm(*self.load()))


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter: its modules, what it says about itself, and what stands beside the LoRA in its file.

    `dialect` is how its file names tensors, empty for one made in memory; `evidence` tells why, or how it was made.
    `base` is the base model as the file names it, or None. `extras` are full tensors (heads, biases, new embeddings).
    `config` keeps the fields an export carries on: task_type, fan_in_fan_out, target_modules. `files` are those that it
    was read from, and of a merge those of its sources; none where it was made in memory. `tensors` says what became of
    every tensor of the file; `account` makes a table of it.
    """

    name: str
    modules: Mapping[str, LoraModule]
    dialect: str = ""
    evidence: str = ""
    base: str | None = None
    findings: tuple[Finding, ...] = ()
    extras: Mapping[str, TensorRef] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None
    files: tuple[SourceFile, ...] = ()
    tensors: tuple[TensorRow, ...] = ()

    def require_unchanged(self) -> None:
        """Raise `Changed` where a file that the adapter was read from is no longer what was opened."""
        for file in self.files:
            file.require_unchanged()

    def account(self) -> Account:
        """Every tensor of the file with what became of it, and every module with its scaling and who says it."""
        modules = self.modules.values()
        return Account(self.tensors, tuple(ScalingRow(m.name, m.scaling, m.source) for m in modules))

    def delta(self, module: str) -> Array:
        """The dense update of one module, float32 (d_out, d_in), scaling included."""
        try:
            return self.modules[module].delta()
        except KeyError:
            some = ", ".join(list(self.modules)[:3])
            why = f"it adapts {len(self.modules)} modules such as {some}"
            raise LoomError(f"{self.name} does not adapt {module!r}", why) from None

    @property
    def ranks(self) -> tuple[int, ...]:
        """The distinct ranks, ascending."""
        return tuple(sorted({module.rank for module in self.modules.values()}))

    @property
    def rank(self) -> int:
        """The largest rank."""
        return max((module.rank for module in self.modules.values()), default=0)

    def norm(self) -> float:
        """Frobenius norm over all modules."""
        return math.sqrt(sum(module.norm() ** 2 for module in self.modules.values()))

    def renamed(self, name: str) -> Adapter:
        """The same adapter under another name."""
        return replace(self, name=name)


def in_memory_module(name: str, a: Array, b: Array, scaling: float = 1.0, **about: Any) -> LoraModule:
    """A module from factors that are already here: a (rank, d_in), b (d_out, rank)."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise LoomError(f"{name}: A {a.shape} and B {b.shape} do not share a rank")
    return LoraModule(name, a.shape[0], a.shape[1], b.shape[0], scaling, _Held(a, b), **about)


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A pair kept in memory, callable like any other loader."""

    a: Array
    b: Array

    def __call__(self) -> tuple[Array, Array]:
        return self.a, self.b
