"""Linear algebra on low-rank pairs, batched over leading dimensions and never building a dense delta unless named so.

A pair is (A, B) with A (..., r, d_in) and B (..., d_out, r); its delta is B @ A, so any scaling is already inside.
Decompositions run in float64: the cores are R x R, and half of the trouble of peers is half precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from studio.core.late import torch

if TYPE_CHECKING:
    from torch import Tensor

_STRIP, _NARROWEST = 1 << 17, 256  # numbers in a strip of long thin factors, and its least width
_INDEPENDENT = 1e-3  # a column whose part outside the others is below this share of it: the Gram matrix would lose it


class Pair(NamedTuple):
    """A low-rank delta: A (..., r, d_in), B (..., d_out, r), delta = B @ A."""

    A: Tensor
    B: Tensor

    @property
    def rank(self) -> int:
        """The rank r of the factors."""
        return int(self.A.shape[-2])

    def delta(self) -> Tensor:
        """The dense delta, (..., d_out, d_in)."""
        return self.B @ self.A

    def double(self) -> Pair:
        """The same pair in float64."""
        return Pair(self.A.double(), self.B.double())

    def single(self) -> Pair:
        """The same pair in float32."""
        return Pair(self.A.float(), self.B.float())

    def scaled(self, factor: Tensor | float) -> Pair:
        """The pair of `factor` times the delta: its root goes into both factors, its sign into B.

        `factor` is a number or a tensor of the leading dimensions. Splitting evenly keeps both factors in range in
        half precision.
        """
        factor = torch.as_tensor(factor, dtype=self.A.dtype, device=self.A.device)[..., None, None]
        root = factor.abs().sqrt()
        return Pair(self.A * root, self.B * (root * factor.sign()))


def stack(pairs: Sequence[Pair]) -> Pair:
    """The exact sum of the deltas as one pair of rank sum(r_i): A by rows, B by columns."""
    return Pair(torch.cat([pair.A for pair in pairs], -2), torch.cat([pair.B for pair in pairs], -1))


def inner(p: Pair, q: Pair) -> Tensor:
    """Inner product of two deltas, (...,): tr((A_p A_q^T)(B_q^T B_p)); O(r_p r_q (d_in + d_out))."""
    return ((p.A @ q.A.mT) * (p.B.mT @ q.B)).sum((-2, -1))


class Pairs(tuple[Pair, ...]):
    """The sources of a module, or of a batch of like ones. What no weight changes is computed once, in float64."""

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Pairs:
        """The same pairs, and what was computed of them if anything was."""
        return pairs if isinstance(pairs, cls) else cls(pairs)

    @property
    def ranks(self) -> list[int]:
        """The rank of each."""
        return [pair.rank for pair in self]

    @cached_property
    def wide(self) -> Pair:
        """All of them stacked."""
        return stack(self).double()

    @cached_property
    def unit_grams(self) -> tuple[Tensor, Tensor]:
        """Inner products of all rows of A, and of all columns of B, (..., R, R) with R = sum(r_i)."""
        return _products([pair.A for pair in self], -2), _products([pair.B for pair in self], -1)

    @cached_property
    def products(self) -> Tensor:
        """All inner products between the deltas, (..., N, N)."""
        of_a, of_b = self.unit_grams
        return self._by_source(self._by_source(of_a * of_b).mT)

    @cached_property
    def canonical(self) -> Pairs:
        """The same deltas in canonical form, float32."""
        return Pairs(canonical(pair).single() for pair in self)

    @cached_property
    def bases(self) -> tuple[Basis, Basis]:
        """Orthonormal bases of all their outputs (columns of B) and of all their inputs (rows of A)."""
        of_a, of_b = self.unit_grams
        return orthonormal(self.wide.B, of_b), orthonormal(self.wide.A.mT, of_a)

    def per_unit(self, values: Tensor) -> Tensor:
        """Something of each source (..., N), repeated for each of its units (..., R) in float64."""
        return values.double().repeat_interleave(torch.tensor(self.ranks, device=values.device), -1)

    def inner_with(self, p: Pair) -> Tensor:
        """Inner products of another delta with each of these, (..., N)."""
        p = p.double()
        return self._by_source(((p.A @ self.wide.A.mT) * (p.B.mT @ self.wide.B)).sum(-2))

    def _by_source(self, units: Tensor) -> Tensor:
        """Sums over the units of each source, along the last dimension: (..., sum(r_i)) to (..., N)."""
        return torch.stack([own.sum(-1) for own in torch.split(units, self.ranks, -1)], -1)


def _products(parts: Sequence[Tensor], units: int) -> Tensor:
    """Inner products of the units of several factors with each other, (..., sum r_i, sum r_i) in float64.

    `units` is the dimension that counts them: -2 for rows (..., r_i, d), -1 for columns (..., d, r_i). A strip of the
    other dimension at a time: what is gathered and made float64 stays in the processor's cache, laid out as it came.
    """
    first, along = parts[0], -3 - units
    counts, length = [part.shape[units] for part in parts], first.shape[along]
    shape = [*first.shape[:-2], sum(counts), sum(counts)]
    total = first.new_zeros(shape, dtype=torch.float64)
    shape[along] = width = min(length, max(_NARROWEST, _STRIP // max(total[..., 0].numel(), 1)))
    room = first.new_empty(shape, dtype=torch.float64)
    for start in range(0, length, width):
        strip = room.narrow(along, 0, min(width, length - start))
        for own, part in zip(torch.split(strip, counts, units), parts, strict=True):
            own.copy_(part.narrow(along, start, strip.shape[along]))
        total += strip @ strip.mT if units == -2 else strip.mT @ strip
    return total


class Basis(NamedTuple):
    """Columns X (..., d, n) written as Q R. Q = span @ turn has orthonormal columns and is not built itself."""

    span: Tensor
    turn: Tensor
    R: Tensor

    def __call__(self, inside: Tensor) -> Tensor:
        """Q @ inside, (..., d, m)."""
        return self.span @ (self.turn @ inside)


def orthonormal(x: Tensor, gram: Tensor) -> Basis:
    """A basis of the columns of x (..., d, n), whose inner products `gram` (..., n, n) are known.

    By Cholesky of the Gram matrix, its diagonal made 1, so that a loud source cannot hide a quiet one: ten times
    cheaper than Householder's QR. It squares the condition, so modules whose columns are nearly dependent are left to
    QR. A column of zeros has no direction and is left out exactly.
    """
    if x.shape[-2] < x.shape[-1]:
        return _by_householder(x)
    length = gram.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    inverse = torch.where(length > 0, 1 / length, 0.0)
    alike = inverse[..., :, None] * gram * inverse[..., None, :]
    alike = alike + torch.diag_embed(torch.where(length > 0, 1 - alike.diagonal(dim1=-2, dim2=-1), 1.0))
    upper, failed = torch.linalg.cholesky_ex(alike, upper=True)
    near = (failed != 0) | ~(upper.diagonal(dim1=-2, dim2=-1).amin(-1) > _INDEPENDENT)
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand_as(gram)
    upper = torch.where(near[..., None, None], eye, upper)
    turn = inverse[..., :, None] * torch.linalg.solve_triangular(upper, eye, upper=True)
    found = Basis(x, turn, upper * length[..., None, :])
    return _mended(found, near) if bool(near.any()) else found


def _mended(found: Basis, near: Tensor) -> Basis:
    """The same with Householder's QR in the modules that are marked."""
    span, turn, r = found.span.clone(), found.turn.clone(), found.R.clone()
    span[near], turn[near], r[near] = _by_householder(found.span[near])
    return Basis(span, turn, r)


def _by_householder(x: Tensor) -> Basis:
    q, r = torch.linalg.qr(x)
    return Basis(q, torch.eye(q.shape[-1], dtype=x.dtype, device=x.device).expand(*x.shape[:-2], -1, -1), r)


class Spectrum(NamedTuple):
    """A thin singular value decomposition: U (..., d_out, n), S (..., n) descending, V (..., d_in, n).

    S may be longer than U and V have columns.
    """

    U: Tensor
    S: Tensor
    V: Tensor

    def pair(self, rank: int) -> Pair:
        """The best pair of at most this rank, its singular values split evenly between the factors."""
        root = self.S[..., :rank].clamp_min(0).sqrt()
        return Pair((self.V[..., :rank] * root[..., None, :]).mT, self.U[..., :rank] * root[..., None, :])

    def kept(self, rank: int) -> Tensor:
        """Share of the squared norm that the first `rank` singular values hold, (...,); 1 for a zero matrix."""
        energy = self.S.square()
        total = energy.sum(-1)
        return torch.where(total > 0, energy[..., :rank].sum(-1) / total.clamp_min(torch.finfo(total.dtype).tiny), 1.0)


def spectrum(pair: Pair) -> Spectrum:
    """SVD of B @ A, exact, float64; see `spectrum_of_sum`."""
    return spectrum_of_sum(Pairs((pair,)), torch.ones(1, device=pair.A.device))


def spectrum_of_sum(pairs: Sequence[Pair], weights: Tensor, directions: int | None = None) -> Spectrum:
    """SVD of sum_i w_i B_i A_i by orthonormal bases of the factors and an SVD of the small core between them.

    Exact, in float64; `weights` is (..., N). With `directions`, only that many singular vectors, but all values.
    """
    pairs = Pairs.of(pairs)
    outputs, inputs = pairs.bases
    core = (outputs.R * pairs.per_unit(weights)[..., None, :]) @ inputs.R.mT
    u, s, vh = torch.linalg.svd(core, full_matrices=False)
    return Spectrum(outputs(u[..., :directions]), s, inputs(vh.mT[..., :directions]))


def canonical(pair: Pair) -> Pair:
    """The same delta by its own singular directions, strongest first, norms split evenly, signs fixed.

    Any (B R^-1)(R A) is the same delta, so raw rows are a matter of training luck; this form is not. The sign is the
    one that makes the entry of largest magnitude in each column of B positive. Rank stays r: missing directions are
    zero.
    """
    found = spectrum(pair)
    rank = min(pair.rank, found.S.shape[-1])
    a, b = found.pair(rank)
    peak = b.gather(-2, b.abs().argmax(-2, keepdim=True))
    sign = torch.where(peak < 0, -1.0, 1.0).to(b)
    a, b = a * sign.mT, b * sign
    missing = pair.rank - rank
    return Pair(torch.nn.functional.pad(a, (0, 0, 0, missing)), torch.nn.functional.pad(b, (0, missing)))
