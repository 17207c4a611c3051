"""Small random adapters that disagree about everything a merge must cope with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from studio.core.adapter import Adapter, in_memory_module

SHAPES = {"q": (12, 20), "k": (12, 20), "up": (30, 9), "down": (9, 30)}


def adapter(name: str, ranks: Mapping[str, int], *, scaling: float = 1.0, seed: int = 0) -> Adapter:
    """A random adapter with these modules and ranks."""
    rng = np.random.default_rng(seed)
    modules = {}
    for module, rank in ranks.items():
        d_out, d_in = SHAPES[module]
        a, b = rng.standard_normal((rank, d_in), np.float32), rng.standard_normal((d_out, rank), np.float32)
        modules[module] = in_memory_module(module, a, b, scaling)
    return Adapter(name, modules, "memory", base="tiny/base")


@pytest.fixture
def mixed() -> list[Adapter]:
    """Three adapters of mixed ranks and scalings; `down` is the last one's alone, `up` lacks the last."""
    return [
        adapter("one", {"q": 6, "k": 2, "up": 3}, scaling=2.0, seed=1),
        adapter("two", {"q": 8, "up": 1}, scaling=0.5, seed=2),
        adapter("three", {"q": 5, "k": 3, "down": 2}, scaling=-1.0, seed=3),
    ]


@pytest.fixture
def equal() -> list[Adapter]:
    """Three adapters of one rank on the same two modules."""
    return [adapter(name, {"q": 3, "up": 3}, seed=seed) for seed, name in enumerate(("one", "two", "three"))]
