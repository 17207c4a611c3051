"""k-means by Gram matrices against scikit-learn, at equal inertia, in one run. `python bench/kmeans.py`

Prints CPU seconds of the best of three runs, inertias and ratios, and writes bench/results/kmeans.json. Then the time
of one move of the k slider over a set like the embedded one: 10 adapters of rank 8 on 56 modules.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans

from studio.core.adapter import Adapter, in_memory_module
from studio.units import cluster_units, nearest, pca, place, units_of
from studio.units.cluster import kmeans

RESULTS = Path(__file__).parent / "results" / "kmeans.json"
POINTS, WIDTH, K = 128, 8192, 16


def best_of_three(work: Callable[[], Any]) -> tuple[float, Any]:
    """The least CPU seconds of three runs, and the last result."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return min(seconds), result


def against_sklearn(name: str, points: torch.Tensor) -> dict[str, Any]:
    """One data set: both with ten restarts, and ours with the Gram matrix already there, as under a slider."""
    rows = points.numpy()
    theirs, fitted = best_of_three(lambda: KMeans(K, n_init=10, random_state=0).fit(rows))
    whole, found = best_of_three(lambda: kmeans(points @ points.mT, K))
    gram = points @ points.mT
    again, _ = best_of_three(lambda: kmeans(gram, K))
    row = {
        "data": name,
        "sklearn_ms": theirs * 1e3,
        "ours_ms": whole * 1e3,
        "ours_gram_cached_ms": again * 1e3,
        "inertia_ratio": found.inertia.item() / fitted.inertia_,
        "speed_ratio": theirs / whole,
        "speed_ratio_gram_cached": theirs / again,
    }
    print("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{value:8}" for key, value in row.items()))
    return row


def synthetic_adapters(count: int = 10, layers: int = 8, rank: int = 8) -> list[Adapter]:
    """Random adapters with the shapes of a small Llama: width 256, seven modules a layer."""
    draw = np.random.default_rng(0)
    shapes = {"q": (256, 256), "k": (256, 256), "v": (256, 256), "o": (256, 256), "gate": (704, 256)}
    shapes |= {"up": (704, 256), "down": (256, 704)}
    return [
        Adapter(
            f"adapter {index}",
            {
                name: in_memory_module(
                    name,
                    draw.standard_normal((rank, d_in)).astype(np.float32),
                    draw.standard_normal((d_out, rank)).astype(np.float32),
                )
                for name, (d_out, d_in) in (
                    (f"model.layers.{layer}.{key}_proj", shape)
                    for layer in range(layers)
                    for key, shape in shapes.items()
                )
            },
            "bench",
        )
        for index in range(count)
    ]


def slider() -> dict[str, Any]:
    """CPU milliseconds: reading the units once, then a move of k to labels of all modules and centroids on the map."""
    adapters = synthetic_adapters()
    start = time.process_time()
    units = units_of(adapters)
    read = time.process_time() - start
    count = len(units.table)
    start = time.process_time()
    positions = pca(units.features)
    picture = time.process_time() - start
    start = time.process_time()
    nearest(units.grams, count)
    near = time.process_time() - start
    row: dict[str, Any] = {"units": count, "read_ms": read * 1e3, "pca_ms": picture * 1e3, "nearest_ms": near * 1e3}
    for k in (2, 4, 8, 16, 32, 64):
        times = []
        for _ in range(5):
            start = time.process_time()
            labels = cluster_units(units.grams, count, k).numpy()
            place(units.table.module.astype(np.int64) * k + labels, positions)
            times.append(time.process_time() - start)
        row[f"k={k}_ms"] = sorted(times)[2] * 1e3
    print("  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    return row


def main() -> None:
    """Run both, print, and keep the figures."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(POINTS, WIDTH, generator=generator, dtype=torch.float64)
    middles = 4 * torch.randn(K, WIDTH, generator=generator, dtype=torch.float64)
    kmeans(torch.eye(4, dtype=torch.float64), 2)  # first-call costs of torch
    rows = [against_sklearn("clear", middles[torch.arange(POINTS) % K] + noise), against_sklearn("none", noise)]
    RESULTS.parent.mkdir(exist_ok=True)
    figures = {"torch_threads": torch.get_num_threads(), "against_sklearn": rows, "slider": slider()}
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
