"""What a composition did, in numbers that anybody can recompute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from studio.merging.registry import Value


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """One module of the result.

    `ranks` of the sources that took part, by source name. `norm_before` is the norm of the exact weighted sum,
    `norm` that of the result; `cosine` is between the two. `kept` is the share of energy of what the method wanted
    that its rank holds.
    `overlap` is the cosine between two sources that is largest in magnitude, or None where fewer than two took part.
    """

    name: str
    d_out: int
    d_in: int
    ranks: Mapping[str, int]
    rank: int
    norm_before: float
    norm: float
    cosine: float | None
    kept: float
    overlap: float | None


@dataclass(frozen=True, slots=True)
class SourceReport:
    """One source: its weight, its norm over all modules, and what was dropped or carried of its other tensors."""

    name: str
    weight: float
    norm: float
    ranks: tuple[int, ...]
    modules: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The whole composition. `cosines[i][j]` is the cosine between the deltas of sources i and j over all modules.

    `kept_energy`: what the rank could hold of what the method wanted (1 for cat). `cosine_to_sum` and `norm_before`
    compare the result with the exact weighted sum of the sources. `error_to_sum` is the relative distance to it.
    `advice` is one sentence on which method to try first, from these figures.
    """

    method: str
    knobs: Mapping[str, Value]
    scale: float
    seed: int
    sources: tuple[SourceReport, ...]
    cosines: tuple[tuple[float, ...], ...]
    kept_energy: float
    cosine_to_sum: float | None
    error_to_sum: float
    norm_before: float
    norm_after: float
    rank: int
    parameters: int
    extras: str
    warnings: tuple[str, ...]
    modules: tuple[ModuleReport, ...]
    seconds: float
    recipe_digest: str = ""
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data, for `merge --json` and for the page."""
        return asdict(self)
