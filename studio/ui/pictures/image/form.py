"""What the controls of the room Image say, and what they wish for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from studio.core.errors import LoomError
from studio.vision.preview import Wish

MOST = 6  # pictures on a side of the grid


@dataclass(frozen=True, slots=True)
class DrawForm:
    """The controls beside the pictures by name, as they stand when a drawing begins."""

    base: str | None
    accept: bool
    edit: str | None
    prompt: str | None
    steps: float
    guidance: float
    seed: float | None
    size: float

    def wish(self, is_ours: bool) -> Wish:
        """What to draw; the embedded model is told by its example, not by words."""
        prompt, size = ("an analogy", 0) if is_ours else (self.prompt or "", int(self.size))
        return Wish(prompt, int(self.steps), float(self.guidance), int(self.seed or 0), size)


@dataclass(frozen=True, slots=True)
class GridForm(DrawForm):
    """The same with the controls of the grid: two adapters, the range of their weights, how many of each."""

    first: str | None
    second: str | None
    low: float | None
    high: float | None
    count: float

    def weights(self) -> list[float]:
        """The weights on a side; raises `LoomError` where they are out of range."""
        if self.low is None or self.high is None or not max(abs(self.low), abs(self.high)) <= 100:
            raise LoomError("The weights are out of range", next="give two numbers between -100 and 100")
        side = np.linspace(self.low, self.high, min(max(int(self.count), 2), MOST))
        weights: list[float] = side.round(4).tolist()
        return weights
