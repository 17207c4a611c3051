"""The advice names the method that the measured cosines and norms call for, and its numbers are the measured ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter, in_memory_module
from studio.recipes.sources import Sources

A, B = np.eye(2, 12, dtype=np.float32), np.eye(10, 2, dtype=np.float32)
APART = np.roll(A, 4, axis=1)


def source(name: str, a: np.ndarray, scaling: float = 1.0) -> Adapter:
    return Adapter(name, {"m": in_memory_module("m", a, B, scaling)}, "memory", base="tiny/base")


def advice(
    adapters: Sequence[Adapter], weights: Sequence[float] | None = None, method: str = "cat", **knobs: int
) -> str:
    return compose(recipe_for(adapters, method, weights, knobs), Sources(tuple(adapters))).report.advice


def test_orthogonal_sources_are_summed() -> None:
    said = advice([source("one", A), source("two", APART)])
    assert said.startswith("Try cat first")
    assert "0.0%" in said
    assert "rank 4" in said


def test_svd_says_what_its_rank_keeps() -> None:
    said = advice([source("one", A), source("two", APART)], method="svd", rank=1)
    assert "svd at rank 1 keeps 50.0% of its energy" in said


def test_what_cancels_is_voted_on() -> None:
    said = advice([source("one", A), source("two", -0.6 * A + 0.8 * APART)])
    assert said.startswith("Try ties or knots first: one and two have cosine -0.60")
    assert "takes 60%" in said


def test_a_negative_weight_turns_agreement_into_cancelling() -> None:
    assert "takes 60%" in advice([source("one", A), source("two", 0.6 * A + 0.8 * APART)], [1.0, -1.0])


@pytest.mark.parametrize(("count", "first", "adds"), [(2, "slerp", "60%"), (3, "ties", "120%")])
def test_what_is_shared_counts_once(count: int, first: str, adds: str) -> None:
    """Every two of them have cosine 0.6: all share A, and each adds a part of its own."""
    own = [np.roll(A, shift, axis=1) for shift in (2, 4, 6)]
    sources = [
        source(name, 0.6**0.5 * A + 0.4**0.5 * part) for name, part in zip(("one", "two", "three"), own, strict=True)
    ]
    said = advice(sources[:count])
    assert said.startswith(f"Try {first} first: one and two have cosine 0.60")
    assert f"adds {adds}" in said


def test_near_duplicates_are_told_before_anything_else() -> None:
    said = advice([source("other", APART), source("one", A), source("two", 0.99 * A)])
    assert said == "Keep one of one and two: with cosine 1.00 they are nearly one adapter; slerp goes between."


def test_a_loud_source_is_balanced_first() -> None:
    said = advice([source("quiet", A), source("loud", APART, 8.0)])
    assert said.startswith("Balance the weights")
    assert "loud enters 8.0 times as strong as quiet" in said


def test_weights_count_as_loudness_does() -> None:
    assert advice([source("quiet", A), source("loud", APART, 8.0)], [8.0, 1.0]).startswith("Try cat first")


def test_one_source_needs_no_method() -> None:
    assert advice([source("one", A), source("two", APART)], [1.0, 0.0]) == "one is alone: cat gives it back exactly."


def test_untrained_sources_get_no_advice() -> None:
    assert advice([source("one", 0 * A), source("two", 0 * A)]) == ""
