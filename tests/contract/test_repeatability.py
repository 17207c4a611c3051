"""The same recipe gives the same bytes, whatever else is merged at the same time and however memory is cut."""

from __future__ import annotations

import numpy as np
import pytest

from studio import merge, methods
from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter
from studio.recipes.sources import BUDGET, Sources
from tests.contract.conftest import adapter
from tests.contract.contract import IDS, distance, factors, run, sources_for

DRAWING = [id for id, found in methods().items() if found.draws]


@pytest.mark.parametrize("id", IDS)
def test_same_seed_same_bytes(mixed: list[Adapter], id: str) -> None:
    assert factors(run(id, mixed, seed=5)) == factors(run(id, mixed, seed=5))


@pytest.mark.parametrize("id", ["dare", "della"])
def test_another_seed_draws_anew(mixed: list[Adapter], id: str) -> None:
    assert distance(run(id, mixed, seed=5), run(id, mixed, seed=6)) > 1e-2


@pytest.mark.parametrize("id", [id for id in IDS if id not in DRAWING])
def test_a_method_that_draws_nothing_ignores_the_seed(mixed: list[Adapter], id: str) -> None:
    assert factors(run(id, mixed, seed=5)) == factors(run(id, mixed, seed=6))


@pytest.mark.parametrize("id", IDS)
def test_batching_does_not_change_the_result(id: str) -> None:
    """Modules of equal shape are merged together as memory allows: one by one they must come out the same."""
    adapters = sources_for(id, [adapter(name, {"q": 3, "k": 3}, seed=seed) for seed, name in enumerate("abc")])
    recipe = recipe_for(adapters, id, None, {})
    whole = compose(recipe, Sources(tuple(adapters), BUDGET)).adapter
    alone = compose(recipe, Sources(tuple(adapters), 1)).adapter
    assert distance(alone, whole) <= 1e-6


@pytest.mark.parametrize("id", IDS)
def test_a_module_does_not_depend_on_the_others(id: str) -> None:
    adapters = sources_for(id, [adapter(name, {"q": 3, "k": 3}, seed=seed) for seed, name in enumerate("abc")])
    both = merge(adapters, id)
    only = merge([Adapter(a.name, {"k": a.modules["k"]}, "memory", base=a.base) for a in adapters], id)
    want = both.delta("k")
    assert np.linalg.norm(only.delta("k") - want) <= 1e-6 * np.linalg.norm(want)
