"""LEGO's k-means beside scikit-learn's: 4 random adapters of rank 16 at the shapes of Llama 3.1 8B, k = 16, one thread.

`python -m bench.lego_speed`. Ours clusters the units of all 32 layers: Gram matrices batch by batch as the factors are
read, then all clusters at once, with four restarts. scikit-learn clusters those of the first layer, module by module,
with ten, which end at no lower inertia. Seconds are of the processor. The inertias compared are of the same seven
modules. Then the whole merge through the studio, report and all. Writes bench/results/lego_speed.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from bench.synthetic import LLAMA_8B, Clock, adapter, machine, peak_memory
from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter
from studio.merging.lego import pool_of
from studio.merging.stacks import Stack, stacks
from studio.recipes.sources import BATCH, Sources
from studio.units.cluster import kmeans

RESULTS = Path(__file__).parent / "results" / "lego_speed.json"
SOURCES, RANK, K = 4, 16, 16
RESTARTS = {"ours": 4, "sklearn": 10}  # as few of ours as still reach their inertia: a fair race ends at one place


def adapters(clock: Clock, only: str = "") -> tuple[Adapter, ...]:
    """The four adapters, or some modules of each."""
    return tuple(adapter(number, LLAMA_8B, RANK, clock, only) for number in range(SOURCES))


def clustered(sources: tuple[Adapter, ...]) -> tuple[float, float, dict[str, float]]:
    """Seconds for the Gram matrices, seconds for the clusters of all modules at once, and the inertia of each."""
    grams, names = [], list[str]()
    spent = 0.0
    for stack in batches(sources):
        started = process_time()
        of_a, of_b = stack.pairs.unit_grams
        grams.append(of_a + of_b)
        spent += process_time() - started
        names += stack.names
    started = process_time()
    found = kmeans(torch.cat(grams), K, n_init=RESTARTS["ours"])
    return spent, process_time() - started, dict(zip(names, found.inertia.tolist(), strict=True))


def batches(sources: tuple[Adapter, ...]) -> Iterator[Stack]:
    """The modules as the studio gathers them."""
    return stacks(sources, budget=BATCH)


def by_sklearn(sources: tuple[Adapter, ...]) -> tuple[float, dict[str, float]]:
    """Seconds and inertias of scikit-learn, one module after the other."""
    seconds, inertia = 0.0, {}
    for stack in batches(sources):
        pool = pool_of(stack.pairs, torch.ones(len(stack), SOURCES), "raw")
        rows = torch.cat((pool.A, pool.B.mT), -1).numpy()
        for name, points in zip(stack.names, rows, strict=True):
            started = process_time()
            inertia[name] = float(KMeans(K, n_init=RESTARTS["sklearn"], random_state=0).fit(points).inertia_)
            seconds += process_time() - started
    return seconds, inertia


def whole_merge() -> dict[str, float]:
    """LEGO through compose, all modules; making the random adapters is not counted."""
    clock = Clock()
    sources = adapters(clock)
    before, started = peak_memory(), process_time()
    compose(recipe_for(sources, "lego", None, {"k": K}), Sources(sources))
    return {"cpu_seconds": process_time() - started - clock.cpu_seconds, "extra_bytes": peak_memory() - before}


def main() -> None:
    """Measure, print and keep."""
    torch.set_num_threads(1)
    about = machine()
    kmeans(torch.eye(4, dtype=torch.float64), 2)  # first-call costs of torch
    with threadpool_limits(1):
        merge = whole_merge()
        grams, clusters, inertia = clustered(adapters(Clock()))
        theirs, their_inertia = by_sklearn(adapters(Clock(), "layers.0."))
    per_module = theirs / len(their_inertia)
    count = len(inertia)
    found: dict[str, Any] = {
        "machine": about,
        "modules": count,
        "restarts": RESTARTS,
        "merge": merge,
        "gram_ms_per_module": 1e3 * grams / count,
        "clusters_ms_per_module": 1e3 * clusters / count,
        "sklearn_ms_per_module": 1e3 * per_module,
        "inertia_ratio": float(np.mean([inertia[name] / own for name, own in their_inertia.items()])),
        "ratio_with_gram": per_module * count / (grams + clusters),
        "ratio_gram_cached": per_module * count / clusters,
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
