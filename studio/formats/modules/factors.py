"""Adapters that are low-rank without being stored as one pair: Tucker, Kronecker (LoKr) and Hadamard (LoHa) products.

Each is turned into A (rank, d_in) and B (d_out, rank) by identities, so nothing is approximated:
    kron(B1 A1, B2 A2) = kron(B1, B2) kron(A1, A2)                                  rank r1 r2
    (B1 A1) * (B2 A2)  = (rows of B1 x rows of B2) (columns of A1 x columns of A2)   rank r1 r2
Source: KohakuBlueleaf/LyCORIS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from studio.core.adapter import pair_norm
from studio.core.errors import Refused
from studio.core.tensors import Array, TensorRef
from studio.formats.modules.pairs import require_filled

# Expanded factors larger than this many numbers (1 GiB) come from a broken file, not from an adapter.
_MAX_NUMBERS = 1 << 28


class LowRank(Protocol):
    """A matrix known by its factors; `columns` counts a convolution's kernel in."""

    @property
    def rank(self) -> int:
        """Rank of the factorisation."""

    @property
    def rows(self) -> int:
        """Rows of the matrix."""

    @property
    def columns(self) -> int:
        """Columns of the matrix."""

    @property
    def kernel(self) -> tuple[int, ...]:
        """Kernel of a convolution, empty where the shapes do not tell."""

    def __call__(self) -> tuple[Array, Array]:
        """Read A (rank, columns) and B (rows, rank)."""


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """up (rows, r) times down (r, columns, *kernel)."""

    up: TensorRef
    down: TensorRef

    def __post_init__(self) -> None:
        _require(len(self.up.shape) == 2 and len(self.down.shape) >= 2, self.up, self.down)
        _require(self.up.shape[1] == self.down.shape[0], self.up, self.down)

    @property
    def rank(self) -> int:
        """The shared size."""
        return self.down.shape[0]

    @property
    def rows(self) -> int:
        """Rows of up."""
        return self.up.shape[0]

    @property
    def columns(self) -> int:
        """Columns of down, kernel included."""
        return math.prod(self.down.shape[1:])

    @property
    def kernel(self) -> tuple[int, ...]:
        """Trailing sizes of down."""
        return self.down.shape[2:]

    def __call__(self) -> tuple[Array, Array]:
        """Both factors."""
        return self.down.read().reshape(self.rank, -1), self.up.read()


@dataclass(frozen=True, slots=True, eq=False)
class Full:
    """A whole matrix (rows, columns, *kernel): itself times the identity on its shorter side."""

    weight: TensorRef

    def __post_init__(self) -> None:
        _require(len(self.weight.shape) >= 2, self.weight)

    @property
    def rank(self) -> int:
        """The shorter side."""
        return min(self.rows, self.columns)

    @property
    def rows(self) -> int:
        """First size."""
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        """All other sizes."""
        return math.prod(self.weight.shape[1:])

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes after the second."""
        return self.weight.shape[2:]

    def __call__(self) -> tuple[Array, Array]:
        """The matrix and the identity, on whichever side is right."""
        weight = self.weight.read().reshape(self.rows, -1)
        identity = np.eye(self.rank, dtype=np.float32)
        return (weight, identity) if self.rows <= self.columns else (identity, weight)


@dataclass(frozen=True, slots=True, eq=False)
class Tucker:
    """sum_ij core[i, j, *kernel] up[i, rows] down[j, columns]; `up_by_row` for up stored as (rows, i, 1, 1)."""

    core: TensorRef
    up: TensorRef
    down: TensorRef
    up_by_row: bool = False

    def __post_init__(self) -> None:
        shapes = self.core.shape, self.up.shape, self.down.shape
        _require(all(len(shape) >= 2 for shape in shapes), self.core, self.up, self.down)
        fits = self.up.shape[1 if self.up_by_row else 0] == self.rank and self.down.shape[0] == self.core.shape[1]
        flat = all(size == 1 for shape in shapes[1:] for size in shape[2:])
        _require(fits and flat, self.core, self.up, self.down)

    @property
    def rank(self) -> int:
        """First size of the core."""
        return self.core.shape[0]

    @property
    def rows(self) -> int:
        """The other size of up."""
        return self.up.shape[0 if self.up_by_row else 1]

    @property
    def columns(self) -> int:
        """Columns of down times the kernel."""
        return self.down.shape[1] * math.prod(self.kernel)

    @property
    def kernel(self) -> tuple[int, ...]:
        """Trailing sizes of the core."""
        return self.core.shape[2:]

    def __call__(self) -> tuple[Array, Array]:
        """The core goes into A: A[i, q, kernel] = sum_j core[i, j, kernel] down[j, q]."""
        core = self.core.read().reshape(self.rank, self.core.shape[1], -1)
        up, down = self.up.read().reshape(self.up.shape[:2]), self.down.read().reshape(self.down.shape[:2])
        a = np.einsum("ijk,jq->iqk", core, down, optimize=True).reshape(self.rank, -1)
        return a, up if self.up_by_row else up.T


@dataclass(frozen=True, slots=True, eq=False)
class Kronecker:
    """kron(first, second); a convolution's kernel belongs to the second (LoKr)."""

    first: LowRank
    second: LowRank

    def __post_init__(self) -> None:
        _require_bounded(self)

    @property
    def rank(self) -> int:
        """Product of the ranks."""
        return self.first.rank * self.second.rank

    @property
    def rows(self) -> int:
        """Product of the rows."""
        return self.first.rows * self.second.rows

    @property
    def columns(self) -> int:
        """Product of the columns."""
        return self.first.columns * self.second.columns

    @property
    def kernel(self) -> tuple[int, ...]:
        """The second's."""
        return self.second.kernel

    def norm(self) -> float:
        """||kron(X, Y)|| = ||X|| ||Y||."""
        return pair_norm(*self.first()) * pair_norm(*self.second())

    def __call__(self) -> tuple[Array, Array]:
        """Kronecker products of the factors."""
        (a1, b1), (a2, b2) = self.first(), self.second()
        return np.kron(a1, a2), np.kron(b1, b2)


@dataclass(frozen=True, slots=True, eq=False)
class Hadamard:
    """first * second, element by element (LoHa)."""

    first: LowRank
    second: LowRank

    def __post_init__(self) -> None:
        if (self.first.rows, self.first.columns) != (self.second.rows, self.second.columns):
            raise Refused("the two factors of a LoHa module differ in shape", next="save the adapter again")
        _require_bounded(self)

    @property
    def rank(self) -> int:
        """Product of the ranks."""
        return self.first.rank * self.second.rank

    @property
    def rows(self) -> int:
        """Rows of either."""
        return self.first.rows

    @property
    def columns(self) -> int:
        """Columns of either."""
        return self.first.columns

    @property
    def kernel(self) -> tuple[int, ...]:
        """The first's."""
        return self.first.kernel

    def __call__(self) -> tuple[Array, Array]:
        """Row-wise and column-wise Kronecker (Khatri-Rao) products of the factors."""
        (a1, b1), (a2, b2) = self.first(), self.second()
        a = (a1[:, None, :] * a2[None, :, :]).reshape(self.rank, -1)
        b = (b1[:, :, None] * b2[:, None, :]).reshape(-1, self.rank)
        return a, b


def _require(fits: bool, *tensors: TensorRef) -> None:
    require_filled("a module", *tensors)
    if not fits:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors)
        raise Refused(
            "the factors of a module do not fit each other", f"their shapes are {shapes}", "save the adapter again"
        )


def _require_bounded(product: LowRank) -> None:
    numbers = product.rank * (product.rows + product.columns)
    if numbers > _MAX_NUMBERS:
        raise Refused(
            f"a module would expand to {numbers:.2g} numbers",
            f"rank {product.rank}, {product.rows} x {product.columns}",
        )
