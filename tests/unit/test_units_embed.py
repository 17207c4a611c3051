from __future__ import annotations

import numpy as np
import pytest

from studio.units import drawn, layout_key, pca, place, umap_layout
from studio.units.embed import align


def cloud(n: int, d: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


@pytest.mark.parametrize(("n", "d"), [(200, 8), (8, 200), (3, 3), (2, 5), (40, 1)])
def test_pca_is_the_svd_of_the_centred_cloud(n: int, d: int) -> None:
    points = cloud(n, d)
    u, s, _ = np.linalg.svd(points - points.mean(0, dtype=np.float64), full_matrices=False)
    expected = np.zeros((n, 2))
    expected[:, : min(2, len(s))] = np.abs(u * s)[:, :2]
    np.testing.assert_allclose(np.abs(pca(points)), expected, atol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
def test_tiny_clouds(n: int) -> None:
    assert umap_layout(cloud(n)).shape == (n, 2)
    assert np.isfinite(umap_layout(cloud(n))).all()


def test_equal_points_stay_together() -> None:
    assert not umap_layout(np.ones((30, 6), np.float32)).any()


def test_align_undoes_any_turn_scale_and_shift() -> None:
    flat = cloud(50, 2)
    turn = np.array([[0.6, -0.8], [-0.8, -0.6]])  # a mirror, too
    np.testing.assert_allclose(align((7 * flat @ turn + 3).astype(np.float32), flat), flat, atol=1e-5)


@pytest.mark.slow
def test_umap_separates_repeats_and_keeps_the_view() -> None:
    middles = 8 * np.eye(3, 12, dtype=np.float32)
    points = cloud(300) + np.repeat(middles, 100, 0)
    points[:20] = points[0]  # duplicates
    placed, flat = umap_layout(points), pca(points)
    assert np.array_equal(placed, umap_layout(points))
    centres = placed.reshape(3, 100, 2).mean(1)
    spread = np.linalg.norm(placed.reshape(3, 100, 2) - centres[:, None], axis=-1).max()
    gaps = np.linalg.norm(centres[:, None] - centres, axis=-1)[np.triu_indices(3, 1)]
    assert gaps.min() > spread
    assert np.linalg.norm(placed - placed.mean(0)) == pytest.approx(np.linalg.norm(flat - flat.mean(0)), rel=1e-4)
    assert (np.sign(centres) == np.sign(flat.reshape(3, 100, 2).mean(1))).mean() > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 6, 17])
def test_small_clouds(n: int) -> None:
    assert np.isfinite(umap_layout(cloud(n))).all()


def test_layout_key_is_by_content() -> None:
    points = cloud(10)
    assert layout_key(points) == layout_key(points.copy())
    assert layout_key(points) != layout_key(points, 1)
    assert layout_key(points) != layout_key(points.reshape(20, 6))
    assert layout_key(points) != layout_key(points + 1e-6)


def test_drawn_keeps_the_strongest_in_table_order() -> None:
    energy = np.array([0.1, 0.5, 0.2, 0.9], np.float32)
    assert drawn(energy, 2).tolist() == [1, 3]
    assert drawn(energy, 4).tolist() == [0, 1, 2, 3]


def test_place_is_the_mean_of_the_members() -> None:
    positions = np.array([[0, 0], [2, 4], [9, 9], [5, 5]], np.float32)
    found = place(np.array([7, 7, -1, 2]), positions)
    assert found.group.tolist() == [2, 7]
    assert found.size.tolist() == [1, 2]
    assert found.xy.tolist() == [[5, 5], [1, 2]]
    assert place(np.array([-1]), positions[:1]).xy.shape == (0, 2)
