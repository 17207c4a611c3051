"""Pruning before a sum: by magnitude from below, or from both ends as Breadcrumbs does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

from studio.core.late import torch
from studio.merging.dense import (
    OUTPUT_HELP,
    OUTPUT_RANGE,
    Filter,
    entries,
    merged_rows,
    nth_largest,
    refit,
    trim,
    weighted_sum,
)
from studio.merging.registry import Help, Laws, Merged, Range, method

if TYPE_CHECKING:
    from torch import Tensor

    from studio.core.linalg import Pair


@method(
    title="Magnitude prune",
    source="PEFT `magnitude_prune_svd`",
    laws=Laws(identity=False),
    space="delta",
)
def prune(
    pairs: Sequence[Pair],
    weights: Tensor,
    *,
    density: Annotated[
        float, Range(0.01, 1, 0.01), Help("Share of each delta's entries that stays, the largest first.")
    ] = 0.5,
    rank: Annotated[int, OUTPUT_RANGE, OUTPUT_HELP] = 0,
) -> Merged:
    """Keeps each delta's largest entries and adds what is left; prunes a single adapter too."""
    filters = [partial(trim, smallest=nth_largest(pair, entries(pair, density))) for pair in pairs]
    return refit(merged_rows(pairs, filters, partial(weighted_sum, weights=weights.double())), pairs, rank)


@method(
    title="Breadcrumbs",
    source="Davari and Belilovsky 2023, arXiv 2312.06795",
    laws=Laws(identity=False),
    space="delta",
)
def breadcrumbs(
    pairs: Sequence[Pair],
    weights: Tensor,
    *,
    density: Annotated[float, Range(0.01, 1, 0.01), Help("Share of each delta's entries that stays.")] = 0.5,
    gamma: Annotated[
        float, Range(0, 0.5, 0.005), Help("Share of the very largest entries that is dropped too.")
    ] = 0.01,
    rank: Annotated[int, OUTPUT_RANGE, OUTPUT_HELP] = 0,
) -> Merged:
    """Drops each delta's outliers as well as its small entries, and adds the middle; prunes a single adapter too."""
    filters = [_middle(pair, density, gamma) for pair in pairs]
    return refit(merged_rows(pairs, filters, partial(weighted_sum, weights=weights.double())), pairs, rank)


def _middle(pair: Pair, density: float, gamma: float) -> Filter:
    """A filter for the entries between the `gamma` largest and the `density` next ones.

    Where both shares do not fit into one, fewer outliers are dropped; gamma 0 drops none (mergekit keeps nothing then).
    """
    stay = entries(pair, density)
    outliers = min(entries(pair, gamma), entries(pair, 1) - stay)
    smallest = nth_largest(pair, outliers + stay)
    largest = nth_largest(pair, outliers) if outliers else torch.full_like(smallest, torch.inf)
    return partial(_between, smallest=smallest, largest=largest)


def _between(delta: Tensor, *, smallest: Tensor, largest: Tensor) -> Tensor:
    size = delta.abs()
    return torch.where((size >= smallest) & (size < largest), delta, 0.0)
