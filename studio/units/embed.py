"""Two dimensions for the map: PCA at once, UMAP when it is ready, laid over the PCA picture so that the view is kept.

Everything here is arrays in, arrays out; see `studio.units.table.Units.features` for what goes in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from studio.core.late import umap

Floats = np.ndarray[Any, np.dtype[np.float32]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Doubles = np.ndarray[Any, np.dtype[np.float64]]

MAX_POINTS = 50_000
_FEWEST_FOR_UMAP = 5
_REDUCED = 50
_SETTINGS = {"n_neighbors": 15, "min_dist": 0.1, "n_epochs": 100, "force_approximation_algorithm": True}


@dataclass(frozen=True, slots=True, eq=False)
class Centroids:
    """Where the clusters lie on the map: `xy` (m, 2), how many members are drawn (m,), and their group numbers (m,)."""

    xy: Floats
    size: Ints
    group: Ints


def drawn(energy: Floats, limit: int = MAX_POINTS) -> Ints:
    """The rows to draw, ascending: all of them, or the `limit` of most energy. The caller says how many of how many."""
    if len(energy) <= limit:
        return np.arange(len(energy))
    return np.sort(np.argsort(-energy, kind="stable")[:limit])


def pca(features: Floats, dimensions: int = 2) -> Floats:
    """The first principal axes, (n, dimensions), zeros where there are fewer; their largest entries are positive."""
    n = len(features)
    out = np.zeros((n, dimensions), np.float32)
    if n < 2:
        return out
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    if centred.shape[1] > n:  # the Gram matrix is the smaller one
        values, vectors = np.linalg.eigh(centred @ centred.T)
        scores = vectors * np.sqrt(values.clip(0))
    else:
        scores = centred @ np.linalg.eigh(centred.T @ centred)[1]
    scores = scores[:, ::-1][:, :dimensions]
    peak = np.take_along_axis(scores, np.abs(scores).argmax(0)[None], 0)
    out[:, : scores.shape[1]] = scores * np.where(peak < 0, -1.0, 1.0)
    return out


def umap_layout(features: Floats, seed: int = 0) -> Floats:
    """UMAP (McInnes et al. 2018) from the PCA picture and turned back onto it, (n, 2); the same seed, the same picture.

    Fewer than five points, or points all alike, keep their PCA places. The first call in a process compiles for
    tens of seconds: see `warm_up`.
    """
    flat = pca(features)
    if len(features) < _FEWEST_FOR_UMAP or not np.ptp(flat):
        return flat
    settings = _SETTINGS | {"n_neighbors": min(15, len(features) - 1)}
    model = umap.UMAP(init=_start(flat, seed), random_state=seed, n_jobs=1, **settings)
    placed = model.fit_transform(pca(features, min(_REDUCED, features.shape[1])))
    return align(np.nan_to_num(placed), flat)


def warm_up(on_done: Callable[[], None] | None = None) -> None:
    """Make umap compile what `umap_layout` needs, on a small cloud. Meant for a background thread at start."""
    cloud = np.random.default_rng(0).standard_normal((512, _REDUCED), np.float32)
    umap_layout(cloud)
    if on_done is not None:
        on_done()


def align(placed: Floats, target: Floats) -> Floats:
    """Turn, mirror, scale and shift `placed` (n, 2) onto `target` (n, 2): orthogonal Procrustes, target's spread."""
    moved = placed.astype(np.float64) - placed.mean(0, dtype=np.float64)
    goal = target.astype(np.float64) - target.mean(0, dtype=np.float64)
    u, _, vt = np.linalg.svd(moved.T @ goal)
    spread = np.linalg.norm(moved)
    scale = np.linalg.norm(goal) / spread if spread else 0.0
    turned: Floats = (moved @ (u @ vt) * scale + target.mean(0, dtype=np.float64)).astype(np.float32)
    return turned


def layout_key(features: Floats, seed: int = 0) -> str:
    """A name for the picture of these features, for a cache: equal contents, settings and seed give equal names."""
    digest = hashlib.sha256(repr((features.shape, seed, sorted(_SETTINGS.items()), _REDUCED)).encode())
    digest.update(np.ascontiguousarray(features, np.float32).tobytes())
    return digest.hexdigest()


def place(groups: Ints, positions: Floats) -> Centroids:
    """Put each group of points at the mean of its members on the map; a negative group belongs to none.

    The mean of positions is not the position of the mean in unit space; it says where a cluster's members are.
    """
    member = groups >= 0
    group, index, size = np.unique(groups[member], return_inverse=True, return_counts=True)
    xy = np.stack([np.bincount(index, axis, len(group)) for axis in positions[member].T.astype(np.float64)], 1)
    return Centroids((xy / size[:, None]).astype(np.float32), size, group)


def _start(flat: Floats, seed: int) -> Floats:
    """The PCA picture at umap's scale, with a little noise so that equal points do not start in one place."""
    noise = np.random.default_rng(seed).normal(0, 1e-4, flat.shape)
    start: Floats = (10 * flat / np.abs(flat).max() + noise).astype(np.float32)
    return start
