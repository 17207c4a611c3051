"""RegMean: the delta that best imitates every source on its own inputs, in closed form and without a dense delta.

Not in the registry: a registered method sees factors and weights only, and this one needs activations. Whoever has run
the base model on each source's inputs (`studio.learning`) calls it module by module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from studio.core.errors import CannotMerge
from studio.core.late import torch
from studio.core.linalg import Pair
from studio.merging.registry import Laws

if TYPE_CHECKING:
    from torch import Tensor

LAWS = Laws()  # held by tests/unit/test_merging_regmean.py
_RIDGE = 1e-8  # of the mean diagonal: inputs that never occur decide nothing and must not divide by zero


def regmean(
    pairs: Sequence[Pair], grams: Sequence[Tensor], weights: Tensor | None = None, *, keep: float = 0.9
) -> Pair:
    """(sum_i w_i dW_i G_i)(sum_i G_i)^-1 for one module or a batch of equal shape, of rank sum(r_i), float32.

    `grams[i]` (..., d_in, d_in) is X_i^T X_i over source i's inputs X_i (rows, d_in); its off-diagonal entries are
    multiplied by `keep` first. `weights` (..., N) defaults to 1. Since dW_i = B_i A_i, the result is the exact pair
    B = [B_1 ... B_N], A = [w_1 A_1 G_1; ...](sum_i G_i)^-1, and one Cholesky factorisation is the whole cost.
    Jin et al. 2023, arXiv 2212.09849, equation 2. Raises `CannotMerge` for Gram matrices that do not fit.
    """
    d_in = pairs[0].A.shape[-1]
    if len(grams) != len(pairs) or any(gram.shape[-2:] != (d_in, d_in) for gram in grams):
        raise CannotMerge(
            "The activations do not fit the adapters", f"each source needs a {d_in} x {d_in} matrix of inner products"
        )
    if not all(bool(gram.isfinite().all()) for gram in grams):
        raise CannotMerge("The activations are not finite", "some input was NaN or infinite", "look at the inputs")
    shrunk = [_shrunk(gram.double(), keep) for gram in grams]
    factors = torch.ones(len(pairs), dtype=torch.float64) if weights is None else weights.double()
    rows = [
        factors[..., i, None, None] * (pair.A.double() @ gram)
        for i, (pair, gram) in enumerate(zip(pairs, shrunk, strict=True))
    ]
    total = torch.stack(shrunk).sum(0)
    ridge = _RIDGE * total.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(torch.finfo(total.dtype).tiny)
    total = total + torch.diag_embed(ridge[..., None].expand(total.shape[:-1]))
    a = torch.cholesky_solve(torch.cat(rows, -2).mT, torch.linalg.cholesky(total)).mT
    return Pair(a, torch.cat([pair.B.double() for pair in pairs], -1)).single()


def _shrunk(gram: Tensor, keep: float) -> Tensor:
    """The matrix with its off-diagonal entries times `keep`, which makes it positive definite where inputs are few."""
    return keep * gram + (1 - keep) * torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
