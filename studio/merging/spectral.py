"""Methods on singular directions: TSV-M keeps each source's strongest apart, Iso-C makes all equally strong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from studio.core.late import torch
from studio.core.linalg import Pair, Spectrum, inner, spectrum
from studio.merging.cat import weighted
from studio.merging.registry import Help, Laws, Merged, Range, method

if TYPE_CHECKING:
    from torch import Tensor

_TINY = 1e-6  # singular values below this share of the largest are float32 rounding, not directions
_ALIKE = 1e-5  # directions that differ by less than float32 factors can tell count as one


@method(
    title="TSV-M: keep directions apart",
    source="Gargiulo et al. 2024, arXiv 2412.00081",
    laws=Laws(),
    default_weight="one",
)
def tsv(
    pairs: Sequence[Pair],
    weights: Tensor,
    *,
    triples: Annotated[
        int, Range(1, 512, 1, auto=0), Help("Singular directions kept of each source; 0 keeps all that have room.")
    ] = 0,
) -> Merged:
    """Takes each source's strongest singular directions and turns them as little as possible until none overlap."""
    d_out, d_in = pairs[0].B.shape[-2], pairs[0].A.shape[-1]
    room = max(min(d_out, d_in) // len(pairs), 1)
    found = [_top(pair, triples or pair.rank, room) for pair in pairs]
    u = _polar(torch.cat([one.U for one in found], -1))
    v = _polar(torch.cat([one.V for one in found], -1))
    s = torch.cat([one.S * weights[..., i, None] for i, one in enumerate(found)], -1)
    root = s.abs().sqrt()[..., None, :]
    return Merged(Pair((v * root).mT, u * root * s.sign()[..., None, :]).single(), _share_kept(pairs, found))


@method(
    title="Iso-C: flatten the spectrum",
    source="Marczak et al. 2025, arXiv 2502.04959; on the non-zero spectrum only",
    laws=Laws(identity=False),
    tier="experimental",
)
def iso(
    pairs: Sequence[Pair],
    weights: Tensor,
) -> Merged:
    """Gives every direction of the weighted sum the same strength, the mean of what they had."""
    # In float64 before anything else: what is weak in the sum becomes as strong as the rest, and so would its rounding.
    found = spectrum(weighted([pair.double() for pair in pairs], weights.double()))
    live = (_TINY * found.S[..., :1] < found.S).to(found.S)
    mean = (found.S * live).sum(-1, keepdim=True) / live.sum(-1, keepdim=True).clamp_min(1)
    return Merged(Spectrum(found.U, mean * live, found.V).pair(found.S.shape[-1]).single())


def _top(pair: Pair, triples: int, room: int) -> Spectrum:
    """The strongest directions; those without strength, as of an untrained source, are zero and push nobody away."""
    found = spectrum(pair)
    count = min(triples, room, found.S.shape[-1])
    s = found.S[..., :count]
    live = (_TINY * found.S[..., :1] < s).to(s)[..., None, :]
    return Spectrum(found.U[..., :count] * live, s, found.V[..., :count] * live)


def _polar(directions: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns: U = P D Q^T becomes P Q^T.

    Columns that are alike share one direction: where D is zero, P is arbitrary and left out.
    """
    p, d, qh = torch.linalg.svd(directions, full_matrices=False)
    live = (_ALIKE * d[..., :1] < d).to(d)
    nearest: Tensor = (p * live[..., None, :]) @ qh
    return nearest


def _share_kept(pairs: Sequence[Pair], found: Sequence[Spectrum]) -> Tensor:
    """Share of the sources' squared norms that the kept directions hold, (...,)."""
    whole = torch.stack([inner(pair.double(), pair.double()) for pair in pairs]).sum(0)
    held = torch.stack([one.S.square().sum(-1) for one in found]).sum(0)
    return torch.where(whole > 0, held / whole.clamp_min(torch.finfo(whole.dtype).tiny), 1.0)
