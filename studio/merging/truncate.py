"""From a dense matrix to the best pair of a given rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from studio.core.late import torch
from studio.core.linalg import Pair, Spectrum

if TYPE_CHECKING:
    from torch import Tensor

_EXACT_DIM = 2048  # up to here the shorter side is decomposed whole; beyond, by block Krylov iteration
_KRYLOV_BLOCKS = 4
_OVERSAMPLE = 16


def truncate(delta: Tensor, rank: int) -> tuple[Pair, Tensor]:
    """The best pair of at most `rank` for a dense matrix (..., d_out, d_in), and the share of energy it keeps, (...,).

    Up to 2048 on the shorter side by the eigenvectors of the Gram matrix in float64, exact. Beyond that by block Krylov
    iteration (Musco and Musco 2015): products in the matrix's own precision, so that no copy of it is made, and
    orthogonalisation in float64. The kept energy is that of the pair found, measured and not estimated.
    """
    if delta.shape[-2] < delta.shape[-1]:
        pair, kept = truncate(delta.mT, rank)
        return Pair(pair.B.mT, pair.A.mT), kept
    rank = min(rank, delta.shape[-1])
    if delta.shape[-1] <= _EXACT_DIM or rank * 4 >= delta.shape[-1]:
        delta = delta.double()
        basis = _top_eigenvectors(delta.mT @ delta, rank)
    else:
        basis = _krylov_basis(delta, rank)
    u, s, vh = torch.linalg.svd((delta @ basis.to(delta)).double(), full_matrices=False)
    found = Spectrum(u, s, basis @ vh.mT)
    total = torch.linalg.vector_norm(delta, dim=-1).double().square().sum(-1)
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
    """An orthonormal basis (..., d_in, m) in float64 that holds the top right singular vectors; repeatable."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(delta.shape[-1], rank + _OVERSAMPLE, generator=generator, dtype=torch.float64)
    block = block.to(delta.device)
    blocks = []
    for _ in range(_KRYLOV_BLOCKS):
        block = torch.linalg.qr((delta.mT @ (delta @ block.to(delta))).double()).Q
        blocks.append(block)
    basis: Tensor = torch.linalg.qr(torch.cat(blocks, -1)).Q
    return basis
