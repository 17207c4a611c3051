"""The factor s of a module in dW = s B A, with the alpha that it comes from and who says so."""

from __future__ import annotations

from dataclasses import dataclass

from studio.core.account import ScalingSource
from studio.core.adapter import delta_scale


@dataclass(frozen=True, slots=True)
class Scaling:
    """A factor, its source in words, and the file's alpha where there is one."""

    value: float
    source: ScalingSource
    alpha: float | None = None


def said(value: float, source: str, alpha: float | None = None) -> Scaling:
    """A factor that the file says, or that its format fixes."""
    return Scaling(value, ScalingSource(source), alpha)


def by_alpha(alpha: float, rank: int, source: str, rslora: bool = False) -> Scaling:
    """alpha / rank, or alpha / sqrt(rank); `source` says where the alpha stands."""
    divisor = f"sqrt({rank})" if rslora else f"{rank}"
    return said(delta_scale(rank, alpha, rslora), f"{source}: {alpha:g} / {divisor}", alpha)


def by_default(value: float, why: str) -> Scaling:
    """A factor that nothing in the file says; it is warned of."""
    return Scaling(value, ScalingSource(f"{why}: scaling taken as {value:g}", is_default=True))
