"""What every method owes its sources: zero and negative weights, missing modules, mixed ranks, silent adapters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from studio import merge, methods
from studio.composing.compose import compose
from studio.core.adapter import Adapter, in_memory_module
from studio.core.errors import BadRecipe, CannotMerge
from studio.recipes.recipe import parse
from studio.recipes.sources import Sources
from tests.contract.conftest import adapter
from tests.contract.contract import FEW, IDS, SIGNED, UNSIGNED, WEIGHTS, distance, factors, run, sources_for
from tests.references import expected

TOLERANCE = 1e-5
# Knobs away from their defaults, so that each branch of a method meets its reference.
VARIANTS: list[tuple[str, dict[str, object]]] = [
    *((id, {}) for id in IDS),
    ("svd", {"rank": 1}),
    ("svd", {"rank": 512}),
    ("ties", {"density": 0.1, "rank": 2}),
    ("ties", {"density": 1.0}),
    ("dare", {"density": 0.2, "combine": "ties"}),
    ("dare", {"density": 1.0}),
    ("della", {"combine": "sum", "epsilon": 0.5}),
    ("knots", {"density": 0.3, "combine": "ties"}),
    ("knots", {"density": 0.5, "combine": "dare"}),
    ("knots", {"combine": "sum"}),
    ("core", {"density": 0.5, "combine": "dare"}),
    ("core", {"basis": "factors"}),
    ("core", {"basis": "factors", "density": 0.5, "combine": "dare"}),
    ("tsv", {"triples": 1}),
    ("prune", {"density": 0.1}),
    ("breadcrumbs", {"gamma": 0.0}),
    ("breadcrumbs", {"density": 1.0, "gamma": 0.2}),
    ("lego", {"k": 1}),
    ("lego", {"k": 3, "q": "2", "form": "canonical"}),
    ("lego", {"k": 5, "feature": "half_normalised", "r_ref": 16}),
    ("lego", {"k": 256, "parameter_reweighting": False, "output_reweighting": False}),
]
WEIGHTINGS = {"plus": (0.9, 0.4, 0.7), "minus": (0.7, -0.3, 0.2), "zero": (1.0, 0.0, 1.0)}
CASES = [
    pytest.param(id, knobs, weights, id="-".join([id, *map(str, knobs.values()), sign]))
    for id, knobs in VARIANTS
    for sign, weights in WEIGHTINGS.items()
    if id in SIGNED or sign != "minus"
]


@pytest.mark.parametrize(("id", "knobs", "weights"), CASES)
def test_equals_the_dense_reference(
    mixed: list[Adapter], id: str, knobs: dict[str, object], weights: tuple[float, ...]
) -> None:
    """Mixed ranks, missing modules and signs against float64."""
    used = sources_for(id, mixed)
    weights = weights[: len(used)]
    merged = merge(used, id, weights, scale=1.5, seed=3, **knobs)
    for name in merged.modules:
        want = expected(used, id, weights, name, scale=1.5, seed=3, **knobs)
        assert np.linalg.norm(merged.delta(name) - want) <= TOLERANCE * np.linalg.norm(want), name


@pytest.mark.parametrize("id", IDS)
def test_missing_modules_are_unions(mixed: list[Adapter], id: str) -> None:
    used = sources_for(id, mixed)
    assert set(run(id, used).modules) == {name for source in used for name in source.modules}


@pytest.mark.parametrize("id", IDS)
def test_weight_zero_removes_a_source(equal: list[Adapter], id: str) -> None:
    with_it, without = merge(equal[:2], id, [0.8, 0.0]), merge(equal[:1], id, [0.8])
    assert factors(with_it) == factors(without)


@pytest.mark.parametrize("id", IDS)
def test_all_weights_zero_is_refused(equal: list[Adapter], id: str) -> None:
    with pytest.raises(CannotMerge):
        merge(equal[:2], id, [0.0, 0.0])


@pytest.mark.parametrize("id", SIGNED)
def test_a_negative_weight_subtracts(equal: list[Adapter], id: str) -> None:
    """Spec P6: in some libraries -1 alone equals +1."""
    assert distance(merge(equal[:1], id, [-1.0]), merge(equal[:1], id, [1.0]), -1) <= TOLERANCE


@pytest.mark.parametrize("id", UNSIGNED)
def test_a_method_without_negative_weights_refuses_one_by_name(equal: list[Adapter], id: str) -> None:
    with pytest.raises(CannotMerge, match=rf"(?i)^{id} takes no negative weights\. that of two is -0\.5"):
        merge(equal[:2], id, [1.0, -0.5])


@pytest.mark.parametrize("id", UNSIGNED)
@pytest.mark.parametrize("own", [{"q": -0.5}, {"q": 0.5, "u*": -0.5}])
def test_a_negative_weight_of_one_module_is_refused_too(equal: list[Adapter], id: str, own: dict[str, float]) -> None:
    with pytest.raises(CannotMerge, match=r"(?i)takes no negative weights"):
        merge_by_module(equal[:2], id, own)


@pytest.mark.parametrize("id", UNSIGNED)
def test_a_negative_weight_that_no_module_follows_is_no_trouble(equal: list[Adapter], id: str) -> None:
    assert set(merge_by_module(equal[:2], id, {"q": 0.5, "u*": 0.5, "nowhere": -1.0}).modules) == {"q", "up"}


@pytest.mark.parametrize("id", FEW)
def test_one_source_too_many_is_refused_by_name(id: str) -> None:
    most = methods()[id].max_sources or 0
    adapters = [adapter(f"source {seed}", {"q": 2}, seed=seed) for seed in range(most + 1)]
    with pytest.raises(CannotMerge, match=rf"(?i)^{id} takes at most {most} adapters, not {most + 1}\."):
        merge(adapters, id)


@pytest.mark.parametrize("id", IDS)
def test_an_untrained_source_only_counts_itself(equal: list[Adapter], id: str) -> None:
    """B = 0 is common in the wild. It may share in an average, but must not bring directions of its own."""
    zero = silent(equal[1])
    merged = merge([equal[0], zero], id, [1.0, 1.0])
    for name, module in merged.modules.items():
        assert np.isfinite(module.delta()).all()
        own = equal[0].modules[name].A
        outside = module.delta() - module.delta() @ np.linalg.pinv(own) @ own
        if methods()[id].space == "factors" and id not in ("linear", "lego"):  # those read the factors of zero too
            assert np.linalg.norm(outside) <= TOLERANCE * np.linalg.norm(module.delta())


@pytest.mark.parametrize("id", IDS)
def test_twins_merge_to_something_finite_that_their_factors_do_not_decide(equal: list[Adapter], id: str) -> None:
    """Two equal sources leave directions undetermined; no method may fill them by chance."""
    twin = replace(equal[0], name="twin")
    merged = merge([equal[0], twin], id, [1.0, 1.0])
    for name, module in merged.modules.items():
        want = expected([equal[0], twin], id, [1.0, 1.0], name)
        assert np.linalg.norm(module.delta() - want) <= TOLERANCE * np.linalg.norm(want), name


@pytest.mark.parametrize("id", IDS)
def test_weights_by_module(equal: list[Adapter], id: str) -> None:
    used = equal[:2]
    recipe = parse(
        {
            "method": id,
            "sources": [
                {"path": "one", "weight": 0.9, "modules": {"u*": 0.2}},
                {"path": "two", "weight": 0.4, "modules": {"q": 0.0}},
            ],
        }
    )
    merged = compose(recipe, Sources(tuple(used))).adapter
    for name, weights in {"q": (0.9, 0.0), "up": (0.2, 0.4)}.items():
        want = expected(used, id, weights, name)
        assert np.linalg.norm(merged.delta(name) - want) <= TOLERANCE * np.linalg.norm(want)


@pytest.mark.parametrize("id", IDS)
def test_a_wrong_number_of_weights_is_refused(equal: list[Adapter], id: str) -> None:
    with pytest.raises(BadRecipe, match=r"(?i)3 weights for 2 adapters"):
        merge(equal[:2], id, WEIGHTS)


@pytest.mark.parametrize("id", IDS)
def test_shapes_that_differ_are_refused(equal: list[Adapter], id: str) -> None:
    other = adapter("other", {"q": 2}, seed=9)
    module = in_memory_module("up", np.ones((2, 5), np.float32), np.ones((30, 2), np.float32))
    with pytest.raises(CannotMerge, match=r"(?i)up is 30 x 9 in one and 30 x 5 in other"):
        merge([equal[0], replace(other, modules={**other.modules, "up": module})], id)


def merge_by_module(adapters: list[Adapter], id: str, own: dict[str, float]) -> Adapter:
    """A merge whose second source has weight -1, and these weights in the modules that are named."""
    sources = [{"path": "one", "weight": 1.0}, {"path": "two", "weight": -1.0, "modules": own}]
    return compose(parse({"method": id, "sources": sources}), Sources(tuple(adapters))).adapter


def silent(source: Adapter) -> Adapter:
    """The adapter before its first step of training: B is zero."""
    modules = {
        name: in_memory_module(name, module.A, np.zeros_like(module.B)) for name, module in source.modules.items()
    }
    return replace(source, name="untrained", modules=modules)
