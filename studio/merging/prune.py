"""Pruning before a sum: by magnitude from below, or from both ends as Breadcrumbs does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

from studio.late import torch
from studio.merging.dense import OUTPUT_HELP, OUTPUT_RANGE, refit, threshold, trim, weighted_sum
from studio.merging.registry import Help, Laws, Merged, Range, method

if TYPE_CHECKING:
    from torch import Tensor

    from studio.linalg import Pair


@method(
    title="Magnitude prune",
    source="PEFT `magnitude_prune_svd`; spec merging 4",
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
    wide = [pair.double() for pair in pairs]
    return refit(weighted_sum(partial(_largest, wide, density), weights.double()), pairs, rank)


@method(
    title="Breadcrumbs",
    source="Davari and Belilovsky 2023, arXiv 2312.06795; spec merging 4",
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
    """Drops each delta's outliers as well as its small entries, and adds the middle."""
    wide = [pair.double() for pair in pairs]
    return refit(weighted_sum(partial(_middle, wide, density, gamma), weights.double()), pairs, rank)


def _largest(pairs: Sequence[Pair], density: float, i: int) -> Tensor:
    delta = pairs[i].delta()
    return trim(delta, threshold(delta, density))


def _middle(pairs: Sequence[Pair], density: float, gamma: float, i: int) -> Tensor:
    """The entries between the top `gamma` and the next `density` share; gamma 0 drops none of the largest."""
    delta = pairs[i].delta()
    kept = trim(delta, threshold(delta, min(density + gamma, 1.0)))
    if gamma == 0:
        return kept
    return torch.where(delta.abs() >= threshold(delta, gamma), 0.0, kept)
