"""What the contract tests share: the registry's ids, and how two merges are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from studio import merge, methods
from studio.core.adapter import Adapter

IDS = tuple(methods())
SIGNED = tuple(id for id, method in methods().items() if method.signed)
UNSIGNED = tuple(id for id in IDS if id not in SIGNED)
FEW = tuple(id for id, method in methods().items() if method.max_sources)
"""The methods that take only so many sources."""
WEIGHTS = (0.9, 0.4, 0.7)


def sources_for(id: str, adapters: Sequence[Adapter]) -> list[Adapter]:
    """As many of the adapters as the method takes."""
    return list(adapters[: methods()[id].max_sources or len(adapters)])


def run(id: str, adapters: Sequence[Adapter], weights: Sequence[float] | None = None, **options: Any) -> Adapter:
    """Merge what the method takes of these adapters, at uneven positive weights unless others are given."""
    used = sources_for(id, adapters)
    return merge(used, id, (weights or WEIGHTS)[: len(used)], **options)


def distance(one: Adapter, other: Adapter, factor: float = 1.0) -> float:
    """||one - factor * other|| / ||factor * other|| over all modules; infinite unless they adapt the same ones."""
    if one.modules.keys() != other.modules.keys():
        return float("inf")
    wanted = [factor * np.float64(other.delta(name)) for name in other.modules]
    errors = [one.delta(name) - want for name, want in zip(other.modules, wanted, strict=True)]
    return float(_norm(errors) / _norm(wanted))


def factors(adapter: Adapter) -> bytes:
    """Every byte of an adapter's values, module by module."""
    return b"".join(name.encode() + a.tobytes() + b.tobytes() for name, (a, b) in adapter.modules.items())


def _norm(arrays: Sequence[np.ndarray[Any, Any]]) -> float:
    return float(np.sqrt(sum(np.vdot(array, array) for array in arrays)))
