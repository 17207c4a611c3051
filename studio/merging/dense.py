"""What the elementwise methods share: dense deltas a tile of rows at a time, sign election, and the way back to a pair.

Every entry is computed, compared and joined in float64, so that a decision (kept or trimmed, plus or minus) never hangs
on rounding; only the result is held whole, in float32. Working memory is therefore one float32 matrix and a few tiles,
whatever the number of sources.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from studio.core.errors import CannotMerge
from studio.core.late import torch
from studio.core.linalg import Pair
from studio.merging.registry import Help, Merged, Range
from studio.merging.truncate import truncate

if TYPE_CHECKING:
    from torch import Tensor

OUTPUT_RANGE = Range(1, 512, 1, auto=0)
OUTPUT_HELP = Help("Rank of the result; 0 takes the sum of the sources' ranks.")
Filter = Callable[["Tensor"], "Tensor"]
Join = Callable[[Sequence["Tensor"]], "Tensor"]

Election = Literal["mergekit", "peft", "count"]
ELECTION_HELP = Help(
    "Who votes on an entry's sign. mergekit: the weighted values. peft: the values as they are, so that a negative "
    "weight cannot change the vote. count: each source once, however large its value (mergekit's count, PEFT's "
    "frequency).",
    advanced=True,
)
Mean = Literal["peft", "mergekit", "none"]
MEAN_HELP = Help(
    "What the sum of the agreeing values is divided by. peft: how many agree. mergekit: the sum of their weights. "
    "none: nothing, as in mergekit's DARE-TIES.",
    advanced=True,
)

_TILE = 1 << 19  # entries of a tile: in float64 it fits a processor's cache
_BIN_SHIFT = 48  # of a positive double, the bits above these are the exponent and four bits of the fraction
_BINS = 1 << 15


class Vote(NamedTuple):
    """How TIES elects signs and averages; the conventions of PEFT and mergekit differ in both."""

    election: Election = "mergekit"
    mean: Mean = "peft"


def tiles(pair: Pair) -> Iterator[slice]:
    """Slices of the rows of the delta, each of about `_TILE` entries over all leading dimensions."""
    d_out, d_in = pair.B.shape[-2], pair.A.shape[-1]
    step = max(1, _TILE // (d_in * max(1, pair.A.shape[:-2].numel())))
    return (slice(start, min(start + step, d_out)) for start in range(0, d_out, step))


def rows_of(pair: Pair, tile: slice) -> Tensor:
    """Some rows of the dense delta, (..., rows, d_in) float64."""
    return pair.B[..., tile, :].double() @ pair.A.double()


def merged_rows(pairs: Sequence[Pair], filters: Sequence[Filter], join: Join) -> Tensor:
    """Each source's delta through its own filter, then joined; (..., d_out, d_in) float32.

    Filters are called on the tiles in order, so that one may draw random numbers as it goes.
    """
    like = pairs[0]
    result = like.A.new_empty((*like.B.shape[:-1], like.A.shape[-1]), dtype=torch.float32)
    for tile in tiles(like):
        result[..., tile, :] = join([f(rows_of(pair, tile)) for f, pair in zip(filters, pairs, strict=True)])
    return result


def refit(delta: Tensor, pairs: Sequence[Pair], rank: int) -> Merged:
    """The dense result as the best pair of `rank`, or of the sources' ranks together when `rank` is 0.

    Raises `CannotMerge` where the result is beyond float32.
    """
    if not math.isfinite(float(torch.linalg.vector_norm(delta, math.inf))):
        raise CannotMerge("The merge is not finite", "its sources hold numbers too large", "lower the weights")
    pair, kept = truncate(delta, rank or sum(pair.rank for pair in pairs))
    return Merged(pair.single(), kept)


def entries(pair: Pair, share: float) -> int:
    """How many entries of a delta a share is, rounded down as PEFT and mergekit do.

    The size is multiplied out first, as they do: in floats 0.35 * 24 * 20 falls short of 0.35 * 480, by one entry.
    """
    return int(share * (pair.B.shape[-2] * pair.A.shape[-1]))


def nth_largest(pair: Pair, n: int) -> Tensor:
    """The n-th largest magnitude among the entries of the delta, (..., 1, 1), exact; 0 from the last entry on.

    Two passes over the tiles, so that the delta is never held: the first counts magnitudes by their leading bits, the
    second gathers the entries of the one bin where the answer lies.
    """
    batch, size = pair.A.shape[:-2], pair.B.shape[-2] * pair.A.shape[-1]
    if n >= size:
        return pair.A.new_zeros((*batch, 1, 1), dtype=torch.float64)
    count = max(1, batch.numel())
    own = torch.arange(count, device=pair.A.device)[:, None] * _BINS
    held = torch.zeros(count * _BINS, dtype=torch.int64, device=pair.A.device)
    for tile in tiles(pair):
        held += torch.bincount((_bins(_magnitudes(pair, tile)) + own).flatten(), minlength=len(held))
    above = held.reshape(count, _BINS).flip(-1).cumsum(-1).flip(-1)  # entries in this bin or a higher one
    wanted = (above >= max(n, 1)).sum(-1) - 1
    beyond = above.gather(-1, wanted[:, None])[:, 0] - held.reshape(count, _BINS).gather(-1, wanted[:, None])[:, 0]
    gathered: list[list[Tensor]] = [[] for _ in range(count)]
    for tile in tiles(pair):
        values = _magnitudes(pair, tile)
        inside = _bins(values) == wanted[:, None]
        for row, kept in enumerate(gathered):
            kept.append(values[row][inside[row]])
    places = (max(n, 1) - beyond).tolist()
    found = [_nth(torch.cat(kept), place) for kept, place in zip(gathered, places, strict=True)]
    return torch.stack(found).reshape(*batch, 1, 1)


def trim(delta: Tensor, *, smallest: Tensor) -> Tensor:
    """The entries (..., d_out, d_in) of at least this magnitude; the others become 0."""
    return torch.where(delta.abs() >= smallest, delta, 0.0)


def weighted_sum(values: Sequence[Tensor], *, weights: Tensor) -> Tensor:
    """sum_i w_i T_i; `weights` (..., N)."""
    total = weights[..., 0, None, None] * values[0]
    for i, value in enumerate(values[1:], 1):
        total = torch.addcmul(total, weights[..., i, None, None], value)
    return total


def elect(values: Sequence[Tensor], *, weights: Tensor, vote: Vote) -> Tensor:
    """TIES' merge: at each entry, the mean of the weighted values whose sign agrees with the elected one; 0 elects "+".

    `weights` (..., N). Source: arXiv 2306.01708, section 3.
    """
    votes = torch.ones_like(weights) if vote.election == "peft" else weights
    heard = [value.sign() for value in values] if vote.election == "count" else values
    is_positive = weighted_sum(heard, weights=votes.sign() if vote.election == "count" else votes) >= 0
    total = torch.zeros_like(values[0])
    divisor = torch.zeros_like(values[0])
    for i, value in enumerate(values):
        voted = votes[..., i, None, None] * value
        agrees = torch.where(is_positive, voted > 0, voted < 0).to(value)
        total = torch.addcmul(total, weights[..., i, None, None] * value, agrees)
        divisor += agrees if vote.mean == "peft" else weights[..., i, None, None] * agrees
    return total if vote.mean == "none" else total / torch.where(divisor == 0, 1.0, divisor)


def _magnitudes(pair: Pair, tile: slice) -> Tensor:
    """The magnitudes of some rows, one line a module: (modules, rows * d_in)."""
    rows = rows_of(pair, tile).abs_()
    return rows.reshape(max(1, rows.shape[:-2].numel()), -1)


def _bins(magnitudes: Tensor) -> Tensor:
    return magnitudes.view(torch.int64) >> _BIN_SHIFT


def _nth(values: Tensor, place: int) -> Tensor:
    """The place-th largest of some values."""
    return values.kthvalue(len(values) - place + 1).values
