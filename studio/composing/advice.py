"""One sentence on which method to try first, from what a composition measured; no rule here but algebra.

Cosines and norms say what a plain sum does. With c_i = w_i |dW_i|, the part of the sum along source i is
c_i + sum_j c_j cos_ij: the second term is what the others add to it or take from it. Where that is small, the exact sum
keeps every source. Where it is negative, they cancel; where it is positive, what they share counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from studio.composing.report import Report, SourceReport

_SMALL = 0.1  # others change a source by less than this share: the sum is as good as each alone
_SAME = 0.95  # beyond this cosine two sources are one adapter for most purposes, such as two checkpoints of a run
_LOUD = 5.0  # beyond this ratio of norms times weights, one source drowns another


class _Change(NamedTuple):
    """What the others do to source `victim` along its own direction, as a share; `other` does most of it."""

    share: float
    victim: SourceReport
    other: SourceReport
    cosine: float


def advise(report: Report) -> str:
    """Which method to try first and why, with the numbers; empty where nothing was heard."""
    active = [i for i, source in enumerate(report.sources) if source.weight and source.norm]
    if len(active) < 2:
        return f"{report.sources[active[0]].name} is alone: cat gives it back exactly." if active else ""
    sources = [report.sources[i] for i in active]
    cosines = [[report.cosines[i][j] for j in active] for i in active]
    quiet, loud = min(sources, key=_strength), max(sources, key=_strength)
    if _strength(loud) > _LOUD * _strength(quiet):
        return (
            f"Balance the weights before choosing a method: {loud.name} enters {_strength(loud) / _strength(quiet):.1f}"
            f" times as strong as {quiet.name} (weight times norm {_strength(loud):.3g} and {_strength(quiet):.3g})."
        )
    twins = max(combinations(range(len(sources)), 2), key=lambda pair: cosines[pair[0]][pair[1]])
    if (alike := cosines[twins[0]][twins[1]]) > _SAME:
        one, other = (sources[i].name for i in twins)
        return (
            f"Keep one of {one} and {other}: with cosine {alike:.2f} they are nearly one adapter; slerp goes between."
        )
    change = max((_change(i, sources, cosines) for i in range(len(sources))), key=_size)
    if abs(change.share) < _SMALL:
        return f"Try cat first: {_nearly_apart(change)}; {_on_rank(report, sources)}."
    between = f"{change.victim.name} and {change.other.name} have cosine {change.cosine:.2f}"
    if change.share < 0:
        return (
            f"Try ties or knots first: {between}, so a plain sum takes {-change.share:.0%} from {change.victim.name} "
            f"along its own direction, and electing a sign entry by entry keeps one side where a sum cancels both."
        )
    return (
        f"Try {'slerp' if len(sources) == 2 else 'ties'} first: {between}, so a plain sum at these weights adds "
        f"{change.share:.0%} to {change.victim.name} along its own direction; "
        + ("an arc keeps the norm between theirs." if len(sources) == 2 else "a mean counts what they share once.")
    )


def _strength(source: SourceReport) -> float:
    return abs(source.weight) * source.norm


def _size(change: _Change) -> float:
    return abs(change.share)


def _change(i: int, sources: Sequence[SourceReport], cosines: Sequence[Sequence[float]]) -> _Change:
    victim = sources[i]
    signed = 1 if victim.weight > 0 else -1
    parts = [
        signed * source.weight * source.norm * cosines[i][j] / _strength(victim) if j != i else 0.0
        for j, source in enumerate(sources)
    ]
    most = max((j for j in range(len(parts)) if j != i), key=[abs(part) for part in parts].__getitem__)
    return _Change(sum(parts), victim, sources[most], cosines[i][most])


def _nearly_apart(change: _Change) -> str:
    return (
        f"the sources hardly overlap, so that the exact sum changes none by more than {abs(change.share):.1%} along "
        f"its own direction (most between {change.victim.name} and {change.other.name}, cosine {change.cosine:.2f})"
    )


def _on_rank(report: Report, sources: Sequence[SourceReport]) -> str:
    if report.method == "svd":
        return f"svd at rank {report.rank} keeps {report.kept_energy:.1%} of its energy"
    ranks = [max(source.ranks, default=0) for source in sources]
    return f"if rank {sum(ranks)} is too much, svd at rank {max(ranks)} says what it keeps"
