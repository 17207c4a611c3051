"""compose: the report's figures against dense matrices, weights by module, unit edits, memory, stopping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from studio.composing.compose import Composition, compose, merge
from studio.core.adapter import Adapter, Finding, in_memory_module
from studio.core.errors import BadRecipe, Cancelled, CannotMerge
from studio.core.tensors import in_memory
from studio.merging import methods
from studio.recipes.recipe import parse
from studio.recipes.sources import Sources, renamed_apart

SHAPES = {"h.0.attn": (12, 10), "h.0.mlp": (9, 14), "h.1.attn": (12, 10), "h.1.mlp": (9, 14)}
WEIGHTS = (0.8, -0.5, 0.3)


def adapter(name: str, seed: int, rank: int = 3, scaling: float = 0.5, **about: Any) -> Adapter:
    rng = np.random.default_rng(seed)
    modules = {
        module: in_memory_module(
            module,
            rng.standard_normal((rank, d_in), np.float32),
            rng.standard_normal((d_out, rank), np.float32),
            scaling,
        )
        for module, (d_out, d_in) in SHAPES.items()
    }
    return Adapter(name, modules, "memory", base="tiny/base", **about)


@pytest.fixture
def three() -> tuple[Adapter, ...]:
    return adapter("one", 1), adapter("two", 2, rank=2, scaling=2.0), adapter("three", 3)


def composed(
    adapters: Sequence[Adapter], *edits: dict[str, Any], budget: int = 1 << 28, stop: Any = None, **fields: Any
) -> Composition:
    """Compose at `WEIGHTS`, with more fields for the first sources."""
    more = [*edits, *({} for _ in adapters)]
    sources = [
        {"path": a.name, "name": a.name, "weight": w, **fields_}
        for a, w, fields_ in zip(adapters, WEIGHTS, more, strict=False)
    ]
    return compose(parse({"sources": sources, **fields}), Sources(tuple(adapters), budget), stop=stop)


def deltas(adapter: Adapter) -> np.ndarray[Any, Any]:
    return np.concatenate([adapter.delta(name).astype(np.float64).ravel() for name in SHAPES])


def weighted(adapters: Sequence[Adapter], weights: Sequence[float] = WEIGHTS) -> np.ndarray[Any, Any]:
    return np.sum([w * deltas(a) for a, w in zip(adapters, weights, strict=True)], 0)


@pytest.mark.parametrize("method", ["cat", "svd", "ties", "linear"])
def test_the_report_says_what_dense_matrices_say(three: tuple[Adapter, ...], method: str) -> None:
    knobs = {"rank": 2} if method == "svd" else {}
    result, report = composed(three, method=method, knobs=knobs, scale=-1.5)
    got, want = deltas(result), -1.5 * weighted(three)
    cosine = got @ want / np.linalg.norm(got) / np.linalg.norm(want)
    assert report.norm_after == pytest.approx(np.linalg.norm(got), rel=1e-6)
    assert report.norm_before == pytest.approx(np.linalg.norm(want), rel=1e-6)
    assert report.cosine_to_sum == pytest.approx(cosine, abs=1e-6)
    assert report.error_to_sum == pytest.approx(np.linalg.norm(got - want) / np.linalg.norm(want), abs=1e-6)
    flat = np.stack([deltas(a) for a in three])
    norms = np.linalg.norm(flat, axis=1)
    np.testing.assert_allclose([source.norm for source in report.sources], norms, rtol=1e-6)
    np.testing.assert_allclose(report.cosines, flat @ flat.T / np.outer(norms, norms), atol=1e-6)
    assert sorted(row.name for row in report.modules) == sorted(SHAPES)
    for row in report.modules:
        dense = result.delta(row.name)
        assert (row.d_out, row.d_in) == dense.shape
        assert row.norm == pytest.approx(np.linalg.norm(dense), rel=1e-6)
        assert row.ranks == {"one": 3, "two": 2, "three": 3}
    assert report.parameters == sum(m.rank * sum(m.shape) for m in result.modules.values())


def test_kept_energy_is_that_of_the_truncation(three: tuple[Adapter, ...]) -> None:
    result, report = composed(three, method="svd", knobs={"rank": 2})
    assert report.kept_energy == pytest.approx(report.norm_after**2 / report.norm_before**2, rel=1e-6)
    assert report.error_to_sum**2 == pytest.approx(1 - report.kept_energy, rel=1e-6)
    assert result.rank == report.rank == 2


def test_one_module_can_have_other_weights(three: tuple[Adapter, ...]) -> None:
    result, _ = composed(three, {"modules": {"h.1.*": 2, "h.1.mlp": 0}})
    for name, own in (("h.0.mlp", 0.8), ("h.1.attn", 2.0), ("h.1.mlp", 0.0)):
        want = own * three[0].delta(name) - 0.5 * three[1].delta(name) + 0.3 * three[2].delta(name)
        np.testing.assert_allclose(result.delta(name), want, atol=1e-5)
    assert (result.modules["h.1.mlp"].rank, result.modules["h.0.mlp"].rank) == (5, 8)


@pytest.mark.parametrize("form", ["raw", "canonical"])
def test_units_are_muted_and_scaled(three: tuple[Adapter, ...], form: str) -> None:
    units = {"form": form, "scale": {"h.0.attn": {0: 0.0, 2: -2.0}}}
    result, _ = composed(three[:1], {"units": units})
    delta = three[0].delta("h.0.attn").astype(np.float64)
    if form == "raw":
        a, b = three[0].modules["h.0.attn"]
        parts = [0.5 * np.outer(b[:, t], a[t]) for t in range(3)]
    else:
        u, s, vh = np.linalg.svd(delta)
        parts = [s[t] * np.outer(u[:, t], vh[t]) for t in range(3)]
    np.testing.assert_allclose(result.delta("h.0.attn"), 0.8 * (parts[1] - 2 * parts[2]), atol=1e-5)
    assert result.modules["h.0.attn"].rank == 2
    np.testing.assert_allclose(result.delta("h.1.attn"), 0.8 * three[0].delta("h.1.attn"), atol=1e-6)


def test_a_unit_that_is_not_there_is_a_bad_recipe(three: tuple[Adapter, ...]) -> None:
    with pytest.raises(BadRecipe, match=r"(?i)h.0.attn has no unit 3"):
        composed(three, {"units": {"scale": {"h.0.attn": {3: 0}}}})


@pytest.mark.parametrize("method", ["cat", "svd", "ties", "dare", "lego"])
def test_memory_decides_nothing(three: tuple[Adapter, ...], method: str) -> None:
    """A budget of one byte streams module by module and spills results to a file."""
    whole, streamed = composed(three, method=method), composed(three, method=method, budget=1)
    assert Sources(three).small
    assert not Sources(three, 1).small
    assert [*whole.adapter.modules] == [*streamed.adapter.modules] == [*SHAPES]
    np.testing.assert_allclose(deltas(streamed.adapter), deltas(whole.adapter), atol=1e-6)


def test_kept_sources_forget_the_last_weights(three: tuple[Adapter, ...]) -> None:
    sources, recipe = Sources(three), parse({"sources": [{"path": a.name} for a in three], "method": "svd"})
    first = deltas(compose(recipe, sources).adapter)
    compose(recipe.changed(scale=3, method="cat"), sources)
    np.testing.assert_array_equal(deltas(compose(recipe, sources).adapter), first)
    np.testing.assert_array_equal(deltas(compose(recipe, Sources(three)).adapter), first)


def test_it_stops_when_told(three: tuple[Adapter, ...]) -> None:
    with pytest.raises(Cancelled):
        composed(three, stop=lambda: True)


def test_progress_ends_at_the_number_of_modules(three: tuple[Adapter, ...]) -> None:
    steps: list[tuple[int, int, str]] = []
    recipe = parse({"sources": [{"path": a.name} for a in three]})
    compose(recipe, Sources(three, 1), on_step=lambda *step: steps.append(step))
    assert [step[:2] for step in steps] == [(done, 4) for done in range(1, 5)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_where_they_are_heard(three: tuple[Adapter, ...], bad: float) -> None:
    a, b = three[1].modules["h.0.mlp"]
    broken = in_memory_module("h.0.mlp", a, np.full_like(b, bad))
    spoilt = (three[0], Adapter("bad", {**three[1].modules, "h.0.mlp": broken}, "memory", base="tiny/base"), three[2])
    for method in methods():
        two = [{"weight": 0.5}, {"weight": 0.5}]
        with pytest.raises(CannotMerge, match=r"h\.0\.mlp is not finite\. Bad holds"):
            composed(spoilt[:2], *two, method=method)
    result, report = composed(spoilt, {}, {"weight": 0.0})
    np.testing.assert_allclose(deltas(result), weighted((three[0], three[2]), (0.8, 0.3)), atol=1e-5)
    assert np.isfinite(report.cosines).all()


def test_extras_are_dropped_or_carried_from_one(three: tuple[Adapter, ...]) -> None:
    head = {"score.weight": in_memory(np.ones((2, 3), np.float32))}
    sources = (adapter("one", 1, extras=head, config={"modules_to_save": ["score"]}), three[1])
    dropped, carried = composed(sources), composed(sources, extras="one")
    assert (dropped.adapter.extras, dropped.report.extras) == ({}, "dropped from one (1)")
    assert [*carried.adapter.extras] == ["score.weight"]
    assert carried.report.extras == "carried from one (1)"
    with pytest.raises(CannotMerge, match=r"(?i)no source has that name"):
        composed(sources, extras="three")


def test_what_may_surprise_is_said(three: tuple[Adapter, ...]) -> None:
    quiet = adapter("quiet", 4, scaling=0.01)
    _, report = composed((three[0], quiet), method="linear")
    assert any("times as strong as quiet" in warning for warning in report.warnings)
    assert any("wrong by design" in warning for warning in report.warnings)
    stopped = adapter("stopped", 5, findings=(Finding("stop", "holds NaN"),))
    with pytest.raises(CannotMerge, match=r"(?i)stopped cannot be merged"):
        composed((three[0], stopped))


def test_adapters_of_one_name_are_told_apart(three: tuple[Adapter, ...]) -> None:
    names = [a.name for a in renamed_apart([a.renamed("x") for a in three])]
    assert names == ["x", "x 2", "x 3"]


def test_a_module_that_no_weight_or_unit_reaches_is_warned_of(three: tuple[Adapter, ...]) -> None:
    units = {"scale": {"h.0.atn": {0: 0.0}, "h.0.mlp": {0: 0.5}}}
    _, report = composed(three, {"modules": {"h.9.*": 2, "h.1.*": 2, "h.1.mlp": 1}, "units": units})
    assert [text for text in report.warnings if "adapts no module" in text] == [
        "one adapts no module 'h.9.*': its weight or units of its own change nothing",
        "one adapts no module 'h.0.atn': its weight or units of its own change nothing",
    ]


def test_a_weight_that_is_no_number_is_a_bad_recipe(three: tuple[Adapter, ...]) -> None:
    weights: Any = [np.float32(0.5), "much"]
    with pytest.raises(BadRecipe, match="'much' is not a weight"):
        merge(three[:2], weights=weights)


@pytest.mark.parametrize("method", ["ties", "dare", "della", "breadcrumbs", "prune"])
def test_a_result_beyond_float32_is_refused(method: str) -> None:
    pair = np.full((2, 6), 1e25, np.float32), np.full((5, 2), 1e25, np.float32)
    huge = Adapter("huge", {"m": in_memory_module("m", *pair)}, "memory")
    with pytest.raises(CannotMerge, match="not finite"):
        merge([huge, huge.renamed("more")], method, [1.0, 1.0], density=0.9)
