from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from studio.core.errors import LoomError
from studio.units.cluster import kmeans


def blobs(n: int, d: int, centres: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    middles = 6 * torch.randn(centres, d, generator=generator, dtype=torch.float64)
    return middles[torch.arange(n) % centres] + torch.randn(n, d, generator=generator, dtype=torch.float64)


def noise(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inertia_of(points: torch.Tensor, labels: torch.Tensor) -> float:
    """The definition: squared distances to the members' mean."""
    groups = [points[labels == label] for label in labels.unique()]
    return float(sum(((group - group.mean(0)) ** 2).sum() for group in groups))


@pytest.mark.parametrize(
    "make", [lambda s: blobs(128, 512, 16, s), lambda s: noise(128, 512, s)], ids=["clear", "none"]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_inertia_is_no_worse_than_sklearn(make, seed) -> None:
    points = make(seed)
    found = kmeans(points @ points.T, 16, seed=seed)
    theirs = KMeans(16, n_init=10, random_state=seed).fit(points.numpy()).inertia_
    assert found.inertia.item() == pytest.approx(inertia_of(points, found.labels), rel=1e-9)
    assert found.inertia.item() <= theirs * 1.001


def test_clear_clusters_are_found_and_numbered_by_first_point() -> None:
    points = blobs(60, 20, 5, 3)
    assert torch.equal(kmeans(points @ points.T, 5).labels, torch.arange(60) % 5)


@pytest.mark.parametrize("k", [1, 2, 7, 30])
def test_no_cluster_is_empty(k: int) -> None:
    points = torch.stack([noise(30, 4, seed) for seed in range(6)])
    points[0] = points[0, :1]  # thirty copies of one point
    points[1, :28] = points[1, :1]
    labels = kmeans(points @ points.mT, k, n_init=3).labels
    assert all(len(row.unique()) == k for row in labels)


def test_every_point_is_its_own_cluster_when_k_is_large() -> None:
    points = noise(5, 3, 0)
    found = kmeans(points @ points.T, 9)
    assert found.labels.tolist() == [0, 1, 2, 3, 4]
    assert found.inertia.item() == 0.0


def test_result_does_not_depend_on_the_rest_of_the_batch_or_on_padding() -> None:
    sizes = [12, 40, 25, 7, 40]
    alone = [noise(n, 30, n) for n in sizes]
    grams = torch.full((5, 40, 40), torch.nan, dtype=torch.float64)
    for gram, points in zip(grams, alone, strict=True):
        gram[: len(points), : len(points)] = points @ points.T
    together = kmeans(grams, 8, count=torch.tensor(sizes))
    for n, points, labels, inertia in zip(sizes, alone, together.labels, together.inertia, strict=True):
        single = kmeans(points @ points.T, 8)
        assert torch.equal(labels[:n], single.labels)
        assert (labels[n:] == -1).all()
        assert inertia.item() == pytest.approx(single.inertia.item(), rel=1e-9, abs=1e-12)


def test_leading_dimensions_and_seed() -> None:
    points = torch.stack([noise(24, 8, seed) for seed in range(6)]).reshape(2, 3, 24, 8)
    gram = points @ points.mT
    one, again, other = kmeans(gram, 5, n_init=1), kmeans(gram, 5, n_init=1), kmeans(gram, 5, n_init=1, seed=1)
    assert one.labels.shape == (2, 3, 24)
    assert one.inertia.shape == (2, 3)
    assert torch.equal(one.labels, again.labels)
    assert not torch.equal(one.labels, other.labels)


@pytest.mark.parametrize(
    ("gram", "k"),
    [(torch.zeros(3, 4), 2), (torch.zeros(0, 0), 1), (torch.eye(3), 0), (torch.full((3, 3), torch.nan), 2)],
)
def test_bad_input_is_refused(gram: torch.Tensor, k: int) -> None:
    with pytest.raises(LoomError):
        kmeans(gram, k)


def test_a_rank_one_gram_needs_no_dense_units() -> None:
    a, b = noise(20, 9, 0), noise(20, 7, 1)
    dense = torch.einsum("no,ni->noi", b, a).flatten(1)
    by_factors, by_dense = kmeans((a @ a.T) * (b @ b.T), 4), kmeans(dense @ dense.T, 4)
    assert torch.equal(by_factors.labels, by_dense.labels)
    assert np.isclose(by_factors.inertia.item(), by_dense.inertia.item())
