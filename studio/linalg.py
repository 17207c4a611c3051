"""Linear algebra on low-rank pairs, batched over leading dimensions and never building a dense delta unless named so.

A pair is (A, B) with A (..., r, d_in) and B (..., d_out, r); its delta is B @ A, so any scaling is already inside.
Decompositions run in float64: the cores are R x R, and half of the trouble of peers is half precision (spec P8).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from studio.late import torch

if TYPE_CHECKING:
    from torch import Tensor

_EXACT_DIM = 1024  # up to here a dense matrix is decomposed whole; beyond, by block Krylov iteration
_KRYLOV_BLOCKS = 4
_OVERSAMPLE = 16


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
    """The exact sum of the deltas as one pair of rank sum(r_i): A by rows, B by columns (merging.md 0.1)."""
    return Pair(torch.cat([pair.A for pair in pairs], -2), torch.cat([pair.B for pair in pairs], -1))


def inner(p: Pair, q: Pair) -> Tensor:
    """Inner product of two deltas, (...,): tr((A_p A_q^T)(B_q^T B_p)); O(r_p r_q (d_in + d_out)) (merging.md 0.3)."""
    return ((p.A @ q.A.mT) * (p.B.mT @ q.B)).sum((-2, -1))


def gram(pairs: Sequence[Pair]) -> Tensor:
    """All inner products, (..., N, N) in float64."""
    wide = stack(pairs).double()
    products = (wide.A @ wide.A.mT) * (wide.B.mT @ wide.B)
    owner = torch.repeat_interleave(torch.arange(len(pairs)), torch.tensor([pair.rank for pair in pairs]))
    members = torch.nn.functional.one_hot(owner, len(pairs)).to(products)
    return members.mT @ products @ members


class Spectrum(NamedTuple):
    """A thin singular value decomposition: U (..., d_out, n), S (..., n) descending, V (..., d_in, n)."""

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
    """SVD of B @ A by QR of the factors and an SVD of the small core; exact, float64 (spec merging 0, tool 2)."""
    q_b, r_b = torch.linalg.qr(pair.B.double())
    q_a, r_a = torch.linalg.qr(pair.A.double().mT)
    u, s, vh = torch.linalg.svd(r_b @ r_a.mT, full_matrices=False)
    return Spectrum(q_b @ u, s, q_a @ vh.mT)


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


def truncate_dense(delta: Tensor, rank: int) -> tuple[Pair, Tensor]:
    """The best pair of at most `rank` for a dense matrix (..., d_out, d_in), and the share of energy it keeps.

    Up to 1024 on the shorter side by the eigenvectors of the Gram matrix in float64, exact; beyond by block Krylov
    iteration (Musco and Musco 2015), whose kept energy is measured on the matrix itself, not estimated.
    """
    delta = delta.double()
    if delta.shape[-2] < delta.shape[-1]:
        pair, kept = truncate_dense(delta.mT, rank)
        return Pair(pair.B.mT, pair.A.mT), kept
    rank = min(rank, delta.shape[-1])
    if delta.shape[-1] <= _EXACT_DIM or rank * 4 >= delta.shape[-1]:
        basis = _top_eigenvectors(delta.mT @ delta, rank)
    else:
        basis = _krylov_basis(delta, rank)
    image = delta @ basis
    u, s, vh = torch.linalg.svd(image, full_matrices=False)
    found = Spectrum(u, s, basis @ vh.mT)
    total = delta.square().sum((-2, -1))
    held = s[..., :rank].square().sum(-1)
    kept = torch.where(total > 0, held / total.clamp_min(torch.finfo(total.dtype).tiny), 1.0)
    return found.pair(rank), kept


def _top_eigenvectors(gram: Tensor, rank: int) -> Tensor:
    """The eigenvectors of the largest eigenvalues, (..., n, rank).

    LAPACK's evr finds these alone, which eigh in torch cannot.
    """
    if gram.is_cuda:
        whole: Tensor = torch.linalg.eigh(gram).eigenvectors
        return whole[..., -rank:]
    from scipy.linalg import eigh

    n = gram.shape[-1]
    found = [eigh(one, subset_by_index=(n - rank, n - 1))[1] for one in gram.reshape(-1, n, n).numpy()]
    return torch.from_numpy(np.stack(found)).reshape(*gram.shape[:-1], rank)


def _krylov_basis(delta: Tensor, rank: int) -> Tensor:
    """An orthonormal basis (..., d_in, m) that holds the top right singular vectors; repeatable."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(delta.shape[-1], rank + _OVERSAMPLE, generator=generator, dtype=delta.dtype).to(delta.device)
    blocks = []
    for _ in range(_KRYLOV_BLOCKS):
        block = torch.linalg.qr(delta.mT @ (delta @ block)).Q
        blocks.append(block)
    basis: Tensor = torch.linalg.qr(torch.cat(blocks, -1)).Q
    return basis
