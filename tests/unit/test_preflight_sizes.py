"""A merge warns where its size or its sources cannot be what a person meant."""

from __future__ import annotations

import numpy as np
import pytest

from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter, in_memory_module
from studio.recipes.sources import Sources


def adapters(count: int, seed: int = 0) -> list[Adapter]:
    rng = np.random.default_rng(seed)
    drawn = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    return [
        Adapter(f"a{i}", {"q": in_memory_module("q", drawn(2, 64), drawn(48, 2))}, base="b/b") for i in range(count)
    ]


def scaled(adapter: Adapter, factor: float, name: str) -> Adapter:
    modules = {
        key: in_memory_module(key, module.A, np.asarray(factor * module.B, np.float32), module.scaling)
        for key, module in adapter.modules.items()
    }
    return Adapter(name, modules, base=adapter.base)


def warnings(sources: list[Adapter], weights: list[float], method: str = "cat") -> tuple[str, ...]:
    return compose(recipe_for(sources, method, weights, {}), Sources(tuple(sources))).report.warnings


def test_ten_adapters_at_weight_one_are_warned_about_with_the_way_out() -> None:
    (said,) = warnings(adapters(10), [1.0] * 10)
    assert "times the size of its largest source" in said
    assert "try every weight at 1/10" in said
    assert warnings(adapters(10), [0.1] * 10) == ()


def test_two_or_three_adapters_that_do_not_overlap_are_no_cause_for_a_warning() -> None:
    assert warnings(adapters(2), [1.0, 1.0]) == ()
    assert warnings(adapters(3), [1.0, 1.0, 1.0]) == ()


@pytest.mark.parametrize(
    ("factor", "said"), [(1.0, "the same adapter as a0"), (0.5, "0.5 times a0"), (-2.0, "-2 times a0")]
)
def test_a_copy_is_named_with_its_factor(factor: float, said: str) -> None:
    one = adapters(1)[0]
    found = warnings([one, scaled(one, factor, "copy")], [0.5, 0.5])
    assert [text for text in found if f"copy is {said}" in text and "keep one" in text]


def test_a_source_at_weight_zero_is_not_judged() -> None:
    one = adapters(1)[0]
    assert warnings([one, scaled(one, 1.0, "copy")], [1.0, 0.0]) == ()
