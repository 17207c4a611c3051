from __future__ import annotations

import numpy as np
import pytest
import torch

from studio.core.adapter import Adapter, in_memory_module
from studio.core.errors import LoomError
from studio.units import Scope, cluster_units, cosines, layer_of, module_type_of, nearest, overlap, units_of
from studio.units import gram as grams
from studio.units.cluster import kmeans
from studio.units.pool import natural, pools
from studio.units.sketch import projections, sketch

SHAPES = {"model.layers.0.q_proj": (12, 16), "model.layers.0.up_proj": (24, 16), "model.layers.1.q_proj": (12, 16)}


def adapter(name: str, rank: int, seed: int, scaling: float = 2.0, skip: str = "") -> Adapter:
    draw = np.random.default_rng(seed)
    modules = {
        path: in_memory_module(
            path,
            draw.standard_normal((rank, d_in)).astype(np.float32),
            draw.standard_normal((d_out, rank)).astype(np.float32),
            scaling,
        )
        for path, (d_out, d_in) in SHAPES.items()
        if path != skip
    }
    return Adapter(name, modules, "test")


@pytest.fixture
def three() -> list[Adapter]:
    return [adapter("one", 4, 1), adapter("two", 3, 2, -0.5, "model.layers.0.up_proj"), adapter("three", 4, 3)]


@pytest.mark.parametrize("form", ["raw", "canonical"])
def test_units_sum_to_the_delta(three, form) -> None:
    for pool in pools(three, form=form):
        for index, source in enumerate(three):
            own = pool.adapter == index
            if pool.place.name in source.modules:
                delta = (pool.b[own].mT @ pool.a[own]).numpy()
                np.testing.assert_allclose(delta, source.delta(pool.place.name), rtol=1e-4, atol=1e-5)
            else:
                assert not own.any()


def test_raw_units_are_the_rows_with_the_root_of_the_scaling(three) -> None:
    pool = next(pools(three, form="raw"))
    module = three[0].modules[pool.place.name]
    np.testing.assert_allclose(pool.a[:4], module.A * np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(pool.b[:4].T, module.B * np.sqrt(2), rtol=1e-6)
    negative = three[1].modules[pool.place.name]
    np.testing.assert_allclose(pool.a[4:7], negative.A * np.sqrt(0.5), rtol=1e-6)
    np.testing.assert_allclose(pool.b[4:7].T, -negative.B * np.sqrt(0.5), rtol=1e-6)


def test_canonical_units_do_not_depend_on_the_gauge() -> None:
    plain = adapter("plain", 4, 5)
    mix = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32) + 3 * np.eye(4, dtype=np.float32)
    turned = Adapter(
        "turned",
        {
            path: in_memory_module(path, mix @ module.A, module.B @ np.linalg.inv(mix), module.scaling)
            for path, module in plain.modules.items()
        },
        "test",
    )
    for pool in pools([plain, turned]):
        np.testing.assert_allclose(pool.a[:4], pool.a[4:], atol=2e-4)
        np.testing.assert_allclose(pool.b[:4], pool.b[4:], atol=2e-4)
        np.testing.assert_allclose(pool.a.norm(dim=1), pool.b.norm(dim=1), rtol=1e-4)
        assert (pool.b.gather(1, pool.b.abs().argmax(1, keepdim=True)) > 0).all()
    units = units_of([plain, turned])
    near = nearest(units.grams, len(units.table))
    assert near.cosine.numpy() == pytest.approx(np.ones(len(units.table)), abs=1e-5)
    assert (units.table.adapter[near.unit.numpy()] != units.table.adapter).all()


def test_table_columns(three) -> None:
    table = units_of(three).table
    assert len(table) == 11 + 8 + 11
    assert [place.name for place in table.places] == list(SHAPES)
    for index, source in enumerate(three):
        own = table.adapter == index
        assert table.energy[own].sum() == pytest.approx(1, rel=1e-5)
        assert np.sqrt((table.norm[own].astype(float) ** 2).sum()) == pytest.approx(source.norm(), rel=1e-5)
        for module, place in enumerate(table.places):
            here = own & (table.module == module)
            if place.name in source.modules:
                assert table.module_energy[here].sum() == pytest.approx(1, rel=1e-5)
                assert table.rank[here].tolist() == list(range(source.modules[place.name].rank))
    assert (np.diff(table.module) >= 0).all()


def test_scope(three) -> None:
    assert {place.name for place in units_of(three, scope=Scope(layer="layers.0")).table.places} == set(
        list(SHAPES)[:2]
    )
    one = units_of(three, scope=Scope(module="model.layers.1.q_proj"))
    assert len(one.table) == 11
    pool = next(pools(three, scope=Scope(module="model.layers.1.q_proj")))
    joint = torch.cat([pool.a, pool.b], 1)
    np.testing.assert_allclose(
        torch.cdist(joint, joint), np.linalg.norm(one.features[:, None] - one.features, axis=-1), atol=1e-3
    )
    nothing = units_of(three, scope=Scope(layer="layers.7"))
    assert len(nothing.table) == 0
    assert nothing.features.shape == (0, 2)
    assert nothing.grams == ()


def test_same_name_of_another_shape_is_another_module(three) -> None:
    path = "model.layers.1.q_proj"
    other = Adapter(
        "other", {path: in_memory_module(path, np.ones((1, 5), np.float32), np.ones((6, 1), np.float32))}, "test"
    )
    table = units_of([*three, other]).table
    assert [(place.d_out, place.d_in) for place in table.places if place.name == path] == [(12, 16), (6, 5)]


def test_factors_that_are_not_finite_and_zero_units() -> None:
    path = "h.0.x"
    bad = in_memory_module(path, np.full((2, 4), np.nan, np.float32), np.ones((3, 2), np.float32))
    zero = in_memory_module(path, np.ones((2, 4), np.float32), np.zeros((3, 2), np.float32))
    units = units_of([Adapter("bad", {path: bad}, "test"), Adapter("zero", {path: zero}, "test")])
    assert units.table.adapter.tolist() == [1, 1]
    assert units.table.energy.tolist() == [0, 0]
    assert np.isfinite(units.features).all()
    assert nearest(units.grams, 2).cosine.tolist() == [0, 0]


def test_nearest_is_the_true_cosine_of_the_deltas(three) -> None:
    units = units_of(three, form="raw")
    near = nearest(units.grams, len(units.table))
    row = 0
    for pool in pools(three, form="raw"):
        dense = torch.nn.functional.normalize(torch.einsum("no,ni->noi", pool.b, pool.a).flatten(1).double(), dim=1)
        cosine = dense @ dense.T - 2 * torch.eye(len(dense))
        value, index = cosine.max(1)
        assert torch.equal(near.unit[row : row + len(dense)], index + row)
        torch.testing.assert_close(near.cosine[row : row + len(dense)], value, rtol=1e-5, atol=1e-6)
        row += len(dense)


def test_nearest_of_a_lone_unit() -> None:
    lone = units_of([adapter("lone", 1, 0)])
    near = nearest(lone.grams, 3)
    assert near.unit.tolist() == [-1, -1, -1]
    assert near.cosine.tolist() == [0, 0, 0]


@pytest.mark.parametrize("weights", [None, (1.5, -0.7, 0.2)])
def test_clusters_are_those_of_the_joint_vectors(three, weights) -> None:
    units = units_of(three, form="raw")
    per_unit = None if weights is None else torch.tensor(weights)[torch.from_numpy(units.table.adapter).long()]
    labels = cluster_units(units.grams, len(units.table), 3, weights=per_unit)
    row = 0
    for pool in pools(three, form="raw"):
        w = torch.ones(len(pool.a)) if weights is None else torch.tensor(weights)[pool.adapter]
        joint = torch.cat([pool.a * w.abs().sqrt()[:, None], pool.b * (w.sign() * w.abs().sqrt())[:, None]], 1).double()
        assert torch.equal(labels[row : row + len(joint)], kmeans(joint @ joint.T, 3).labels)
        row += len(joint)


def test_too_many_units_to_compare_are_refused(monkeypatch, three) -> None:
    monkeypatch.setattr(grams, "MAX_BYTES", 1000)
    with pytest.raises(LoomError, match=r"(?i)narrow the scope"):
        units_of(three)


def test_sketch_keeps_half_cosines_and_repeats(three) -> None:
    pool = next(pools(three))
    big = sketch(pool, projections([pool.place], size=4096, seed=0))
    a, b = (torch.nn.functional.normalize(x, dim=1) for x in (pool.a, pool.b))
    torch.testing.assert_close(big @ big.T, (a @ a.T + b @ b.T) / 2, rtol=0, atol=0.1)
    assert torch.equal(big, sketch(pool, projections([pool.place], size=4096, seed=0)))
    assert not torch.equal(big, sketch(pool, projections([pool.place], size=4096, seed=1)))


def test_overlap_equals_dense(three) -> None:
    found = overlap(three)
    dense = [
        np.concatenate(
            [(a.delta(p) if p in a.modules else np.zeros(SHAPES[p])).ravel().astype(np.float64) for p in SHAPES]
        )
        for a in three
    ]
    expected = np.array([[x @ y for x in dense] for y in dense])
    np.testing.assert_allclose(found.total, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(np.diagonal(found.cosines), 1, rtol=1e-12)
    assert found.modules.shape == (3, 3, 3)
    assert (found.modules[1, 1] == 0).all()


def test_cosine_with_nothing_is_zero() -> None:
    assert cosines(np.diag([4.0, 0.0])).tolist() == [[1, 0], [0, 0]]
    assert overlap([]).total.shape == (0, 0)


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("transformer.h.3.attn.c_attn", "h.3", "attn.c_attn"),
        ("model.layers.12.self_attn.q_proj", "layers.12", "self_attn.q_proj"),
        ("model.decoder.layers.0.fc1", "decoder.layers.0", "fc1"),
        ("encoder.block.2.layer.0.SelfAttention.q", "encoder.block.2", "layer.SelfAttention.q"),
        ("bert.encoder.layer.5.attention.output.dense", "bert.encoder.layer.5", "attention.output.dense"),
        (
            "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0",
            "unet.down_blocks.0.attentions.1",
            "transformer_blocks.attn1.to_out",
        ),
        ("transformer.single_transformer_blocks.7.proj_mlp", "single_transformer_blocks.7", "proj_mlp"),
        ("unet.time_embedding.linear_1", "unet.time_embedding", "linear_1"),
        ("lm_head", "lm_head", "lm_head"),
        ("model.3", "model.3", "model"),
        ("", "", ""),
    ],
)
def test_names(name: str, layer: str, kind: str) -> None:
    assert layer_of(name) == layer
    assert module_type_of(name) == kind


def test_layers_sort_by_number() -> None:
    assert sorted(["h.10", "h.9", "h.a", "a.1"], key=natural) == ["a.1", "h.9", "h.10", "h.a"]
