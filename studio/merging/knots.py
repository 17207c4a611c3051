"""KnOTS and Core Space: methods that compare entry by entry, in a basis where the sources are aligned.

Both work in the span of the sources, a few dozen dimensions, and so need no dense delta and no truncation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from studio.core.late import torch
from studio.core.linalg import Pair
from studio.merging.cat import weighted
from studio.merging.dense import (
    ELECTION_HELP,
    MEAN_HELP,
    Election,
    Mean,
    Vote,
    elect,
    trim,
    weighted_sum,
)
from studio.merging.registry import Draw, Help, Laws, Merged, Range, method
from studio.merging.thin import Coins, drop, same_chance

if TYPE_CHECKING:
    from torch import Tensor

Combine = Literal["ties", "dare", "sum"]
Basis = Literal["deltas", "factors"]
_DENSITY = (Range(0.01, 1, 0.01), Help("Share of each source's coordinates that stays."))
_COMBINE = Help("How the aligned coordinates are joined: sign election, random drop, or the exact sum.")
_BASIS = Help(
    "Which directions are common: those of the updates, which do not depend on how an adapter is written, or those of "
    "the stacked factors, as published."
)
_TINY = 1e-12  # directions below this share of the largest are rounding


@method(
    title="KnOTS: align, then vote",
    source="Stoica et al. 2024, arXiv 2410.19735; by a low-rank route",
    laws=Laws(order=False),
    default_weight="one",
)
def knots(
    pairs: Sequence[Pair],
    weights: Tensor,
    *,
    draw: Draw,
    density: Annotated[float, _DENSITY[0], _DENSITY[1]] = 1.0,
    combine: Annotated[Combine, _COMBINE] = "ties",
    election: Annotated[Election, ELECTION_HELP] = "mergekit",
    mean: Annotated[Mean, MEAN_HELP] = "peft",
) -> Merged:
    """Writes all deltas in one common output basis, the left singular vectors of them side by side, and merges there.

    A source alone comes back whole.
    """
    if len(pairs) == 1:
        return Merged(weighted(pairs, weights))
    wide = [pair.double() for pair in pairs]
    left, pieces = _aligned(wide)
    merged = _joined(pieces, weights.double(), density, combine, draw, Vote(election, mean))
    return Merged(Pair(merged, left).single())


@method(
    title="Core Space: vote in a small square",
    source="Core Space, arXiv 2509.17786, with basis = factors; basis = deltas is ours",
    laws=Laws(order=False),
    default_weight="one",
)
def core(
    pairs: Sequence[Pair],
    weights: Tensor,
    *,
    draw: Draw,
    density: Annotated[float, _DENSITY[0], _DENSITY[1]] = 0.5,
    combine: Annotated[Combine, _COMBINE] = "ties",
    basis: Annotated[Basis, _BASIS] = "deltas",
    election: Annotated[Election, ELECTION_HELP] = "mergekit",
    mean: Annotated[Mean, MEAN_HELP] = "peft",
) -> Merged:
    """Writes every delta as a small matrix between a common output and a common input basis, and merges those.

    The published bases come from the stacked factors, so that a source written as (10 A, B / 10) merges otherwise; ours
    come from the deltas themselves. A source alone comes back whole.
    """
    if len(pairs) == 1:
        return Merged(weighted(pairs, weights))
    wide = [pair.double() for pair in pairs]
    flipped = [Pair(pair.B.mT, pair.A.mT) for pair in wide]
    if basis == "factors":
        left, right = _stacked([pair.B for pair in wide]), _stacked([pair.B for pair in flipped])
    else:
        left, right = _aligned(wide)[0], _aligned(flipped)[0]
    pieces = [(left.mT @ pair.B) @ (pair.A @ right) for pair in wide]
    merged = _joined(pieces, weights.double(), density, combine, draw, Vote(election, mean))
    return Merged(Pair(merged @ right.mT, left).single())


def _stacked(factors: Sequence[Tensor]) -> Tensor:
    """The left singular vectors (..., d, m) of factors (..., d, r_i) side by side, strongest first, rounding cut."""
    u, s, _ = torch.linalg.svd(torch.cat(list(factors), -1), full_matrices=False)
    live: Tensor = s > math.sqrt(_TINY) * s[..., :1]
    basis: Tensor = u * live[..., None, :]
    return basis


def _aligned(pairs: Sequence[Pair]) -> tuple[Tensor, list[Tensor]]:
    """The common output basis U (..., d_out, m) and the coordinates U^T dW_i (..., m, d_in) of each delta.

    U are the left singular vectors of [dW_1 ... dW_N]: QR of [B_1 ... B_N] gives Q and R_i, and the eigenvectors E of
    sum_i C_i C_i^T with C_i = R_i A_i turn Q into U = Q E. It depends on the deltas alone, not on their factors; its
    signs are fixed by the largest entry of each column.
    """
    q, r = torch.linalg.qr(torch.cat([pair.B for pair in pairs], -1))
    spans = torch.split(r, [pair.rank for pair in pairs], -1)
    inside = [span @ pair.A for span, pair in zip(spans, pairs, strict=True)]
    values, vectors = torch.linalg.eigh(sum(piece @ piece.mT for piece in inside))
    live = values > _TINY * values[..., -1:].clamp_min(0)
    vectors = vectors * live[..., None, :]
    basis = q @ vectors
    peak = basis.gather(-2, basis.abs().argmax(-2, keepdim=True))
    sign = torch.where(peak < 0, -1.0, 1.0).to(basis)
    return basis * sign, [(vectors * sign).mT @ piece for piece in inside]


def _joined(
    pieces: Sequence[Tensor], weights: Tensor, density: float, combine: Combine, draw: Draw, vote: Vote
) -> Tensor:
    if combine == "sum":
        return weighted_sum(pieces, weights=weights)
    if combine == "dare":
        chance = partial(same_chance, density=density)
        dropped = [drop(piece, coins=Coins(draw, i), chance=chance) for i, piece in enumerate(pieces)]
        return weighted_sum(dropped, weights=weights)
    return elect([_trimmed(piece, density) for piece in pieces], weights=weights, vote=vote)


def _trimmed(piece: Tensor, density: float) -> Tensor:
    """The largest entries of a piece, as many as `density` says."""
    flat = piece.abs().flatten(-2)
    dropped = flat.shape[-1] - max(1, int(density * flat.shape[-1]))
    if not dropped:
        return piece
    return trim(piece, smallest=flat.kthvalue(dropped + 1, dim=-1).values[..., None, None])
