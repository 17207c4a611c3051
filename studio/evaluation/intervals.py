"""Bootstrap intervals: how far a figure would move with other items and other adapter seeds."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Values = np.ndarray[Any, np.dtype[np.float64]]

_CELLS = 1 << 24  # resampled values held at once


class Interval(NamedTuple):
    """A figure and the bounds that hold `level` of its bootstrap distribution."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Interval:
        """The same in another unit."""
        return Interval(*(factor * part for part in self))


def mean_interval(values: Values, *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """The mean of values (n,) or (seeds, n), with its percentile interval (Efron 1979).

    Items are drawn with replacement, one draw for all seeds, since all adapters were asked the same; with several
    seeds, these are drawn too. A difference of two methods on the same items is an interval of their differences.
    Nothing to draw from gives NaN.
    """
    return ratio_interval(values, np.ones_like(values), level=level, draws=draws, seed=seed)


def share_interval(right: Values, *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """Percent right of outcomes 0 or 1, (n,) or (seeds, n).

    Where all outcomes are the same, resampling them shows no spread; ten of ten is no proof of 100 %. There the other
    bound is the exact binomial one (Clopper and Pearson 1934) over the n items, whatever the seeds.
    """
    found = mean_interval(right, level=level, draws=draws, seed=seed)
    if found.low == found.high:
        far = ((1 - level) / 2) ** (1 / np.atleast_2d(right).shape[1])
        found = Interval(found.value, far, 1) if found.value == 1 else Interval(found.value, 0, 1 - far)
    return found.scaled(100)


def ratio_interval(values: Values, sizes: Values, *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """sum(values) / sum(sizes), both (n,) or (seeds, n), with its percentile interval: nats a token, say."""
    values, sizes = np.atleast_2d(values), np.atleast_2d(sizes)
    if values.size == 0 or sizes.sum() == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    rng, found, (seeds, n) = np.random.default_rng(seed), [], values.shape
    for start in range(0, draws, step := max(1, _CELLS // values.size)):
        count = min(step, draws - start)
        rows, columns = rng.integers(seeds, size=(count, seeds, 1)), rng.integers(n, size=(count, 1, n))
        found.append(values[rows, columns].sum((1, 2)) / np.maximum(sizes[rows, columns].sum((1, 2)), 1e-12))
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.sum() / sizes.sum()), float(low), float(high))
