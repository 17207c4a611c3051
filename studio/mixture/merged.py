"""Both adapters merged into one, which the reference never does: what they cost each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from studio.composing.compose import merge
from studio.core.adapter import Adapter
from studio.formats import open_adapter
from studio.mixture.model import ADAPTERS, EMBEDDED, Mixture

SUM: Final = "sum"
# By name: the method, and the weight of each adapter.
MERGES: Mapping[str, tuple[str, float]] = MappingProxyType(
    {SUM: ("cat", 1.0), "average": ("cat", 0.5), "ties": ("ties", 1.0)}
)


def sources(folder: Path = EMBEDDED) -> list[Adapter]:
    """The two adapters as files."""
    return [open_adapter(f"{folder}#{name}") for name in ADAPTERS]


def merged(name: str, folder: Path = EMBEDDED) -> Adapter:
    """One of `MERGES`. Raises `KeyError` for another name."""
    method, weight = MERGES[name]
    return merge(sources(folder), method=method, weights=[weight] * len(ADAPTERS))


def add_merges(mixture: Mixture, folder: Path = EMBEDDED, names: tuple[str, ...] = tuple(MERGES)) -> None:
    """Load these merges beside the adapters that they are made of, under their names."""
    for name in names:
        mixture.add(merged(name, folder), name)
