"""Every method keeps the laws it declares, and really breaks those it does not: a law that held would be declared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from studio import merge, methods
from studio.core.adapter import Adapter, in_memory_module
from tests.contract.contract import IDS, WEIGHTS, distance, run, sources_for

TOLERANCE = 1e-5
BROKEN = 1e-2
# Where a law fails only with other knobs than the defaults: the knobs of the example.
EXAMPLES: dict[tuple[str, str], dict[str, Any]] = {
    ("knots", "order"): {"combine": "dare", "density": 0.5},
    ("core", "order"): {"combine": "dare", "density": 0.5},
    ("lego", "order"): {"restarts": 1},  # where k-means starts depends on the order
}


def identity(id: str, adapters: list[Adapter], knobs: dict[str, Any]) -> float:
    """One source at weight 1 comes back equal."""
    return max(distance(merge([adapter], id, [1.0], **knobs), adapter) for adapter in adapters)


def order(id: str, adapters: list[Adapter], knobs: dict[str, Any]) -> float:
    """The order of sources does not matter."""
    used = sources_for(id, adapters)
    forth = merge(used, id, WEIGHTS[: len(used)], **knobs)
    back = merge(used[::-1], id, WEIGHTS[: len(used)][::-1], **knobs)
    return distance(merge([back], "cat", [1.0]), forth) if forth.modules.keys() == back.modules.keys() else np.inf


def exact(id: str, adapters: list[Adapter], knobs: dict[str, Any]) -> float:
    """The result is the weighted sum itself."""
    used = sources_for(id, adapters)
    return distance(run(id, used, **knobs), merge(used, "cat", WEIGHTS[: len(used)]))


def gauge(id: str, adapters: list[Adapter], knobs: dict[str, Any]) -> float:
    """(B R^-1)(R A) gives the result of B A."""
    return distance(run(id, [turned(adapter) for adapter in adapters], **knobs), run(id, adapters, **knobs))


def homogeneous(id: str, adapters: list[Adapter], knobs: dict[str, Any]) -> float:
    """Weights times c, result times c."""
    weights = [4 * weight for weight in WEIGHTS]
    return distance(run(id, adapters, weights, **knobs), run(id, adapters, **knobs), 4)


LAWS: tuple[Callable[[str, list[Adapter], dict[str, Any]], float], ...] = (identity, order, exact, gauge, homogeneous)


def turned(adapter: Adapter) -> Adapter:
    """The same deltas by other factors."""
    rng = np.random.default_rng(7)
    modules = {}
    for name, module in adapter.modules.items():
        r = np.linalg.qr(rng.standard_normal((module.rank, module.rank)))[0] * 2
        a, b = (r @ module.A).astype(np.float32), (module.B @ np.linalg.inv(r)).astype(np.float32)
        modules[name] = in_memory_module(name, a, b, module.scaling)
    return Adapter(adapter.name, modules, "memory", base=adapter.base)


@pytest.mark.parametrize("law", LAWS, ids=[law.__name__ for law in LAWS])
@pytest.mark.parametrize("id", IDS)
def test_law(mixed: list[Adapter], id: str, law: Callable[..., float]) -> None:
    error = law(id, mixed, EXAMPLES.get((id, law.__name__), {}))
    if getattr(methods()[id].laws, law.__name__):
        assert error <= TOLERANCE
    else:
        assert error > BROKEN


@pytest.mark.parametrize("id", IDS)
def test_a_law_of_lego_and_knots_holds_with_the_right_knobs(mixed: list[Adapter], id: str) -> None:
    """What their declarations cannot say: canonical units are gauge-free, and only drawing depends on the order."""
    if id == "lego":
        assert gauge(id, mixed, {"form": "canonical"}) <= TOLERANCE
    if id in ("knots", "core"):
        for combine in ("ties", "sum"):
            assert order(id, mixed, {"combine": combine}) <= TOLERANCE
        assert exact(id, mixed, {"combine": "sum"}) <= TOLERANCE


def test_core_space_as_published_depends_on_how_a_source_is_written(mixed: list[Adapter]) -> None:
    """(10 A, B / 10) is the same adapter; only the bases of the deltas, which are ours, see that."""
    rewritten = [scaled_halves(mixed[0], 10.0), *mixed[1:]]
    assert distance(run("core", rewritten, basis="deltas"), run("core", mixed, basis="deltas")) <= TOLERANCE
    assert distance(run("core", rewritten, basis="factors"), run("core", mixed, basis="factors")) > BROKEN
    assert exact("core", mixed, {"combine": "sum", "basis": "factors"}) <= TOLERANCE


def scaled_halves(adapter: Adapter, factor: float) -> Adapter:
    """The same deltas, A times the factor and B divided by it."""
    modules = {
        name: in_memory_module(name, factor * module.A, module.B / factor, module.scaling)
        for name, module in adapter.modules.items()
    }
    return replace(adapter, modules=modules)


@pytest.mark.parametrize("id", [id for id, found in methods().items() if found.laws.gauge])
def test_a_twin_in_other_factors_is_still_a_twin(equal: list[Adapter], id: str) -> None:
    """Where two sources agree, what is left between them is rounding, and no method may make something of it."""
    one = equal[0]
    same, turned_twin = replace(one, name="twin"), replace(turned(one), name="twin")
    assert distance(merge([one, turned_twin], id, [1.0, 1.0]), merge([one, same], id, [1.0, 1.0])) <= TOLERANCE


def test_iso_does_not_raise_rounding_to_full_strength() -> None:
    """Rank 2 written as rank 4 in float32: its third and fourth directions are rounding."""
    rng = np.random.default_rng(0)
    a = (rng.standard_normal((4, 2)) @ rng.standard_normal((2, 20))).astype(np.float32)
    module = in_memory_module("q", a, rng.standard_normal((12, 4), np.float32))
    merged = merge([Adapter("padded", {"q": module}, "memory")], "iso", [1.0])
    assert np.linalg.matrix_rank(module.delta().astype(np.float64), 1e-5) == 2
    strengths = np.linalg.svd(merged.delta("q"), compute_uv=False)
    np.testing.assert_allclose(strengths[1] / strengths[0], 1, rtol=1e-5)
    assert strengths[2] < 1e-5 * strengths[0]
