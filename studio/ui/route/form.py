"""What the controls of the room Route say, and the router and settings that they spell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from studio.learning.fit import Schedule
from studio.routing.kinds import trainable
from studio.routing.router import Granularity
from studio.routing.text import Reads, Shape
from studio.routing.train import Settings
from studio.ui.shell.fields import number, one_of, whole


@dataclass(frozen=True, slots=True)
class RouteForm:
    """The controls of `RoutingPanel` by name, as they stand when a run begins."""

    tasks: list[str] | None
    count: float | None
    kind: str | None
    k: float | None
    omega: float | None
    grain: str | None
    reads: str | None
    with_base: bool
    samples: float | None
    entropy: float | None
    rate: float | None
    steps: float | None
    batch: float | None
    seed: float | None

    def shape(self) -> Shape:
        """The router; raises `LoomError` for what no control offers."""
        return Shape(
            k=whole("k", self.k, 1, 16),
            omega=number("ω", self.omega, -100, 100),
            kind=one_of("router", self.kind, trainable()),
            granularity=one_of("granularity", self.grain, get_args(Granularity)),
            reads=one_of("features", self.reads, get_args(Reads)),
            with_base=bool(self.with_base),
            seed=whole("The seed", self.seed, 0, 2**31 - 1),
        )

    def settings(self) -> Settings:
        """How it is trained; raises `LoomError` for what no control offers."""
        steps = whole("Steps", self.steps, 1, 5000)
        schedule = Schedule(
            number("The rate", self.rate, 1e-6, 10),
            steps,
            whole("The batch", self.batch, 1, 256),
            check_every=max(1, steps // 10),
            patience=5000,
            seed=whole("The seed", self.seed, 0, 2**31 - 1),
        )
        samples, entropy = whole("M", self.samples, 2, 64), number("Entropy", self.entropy, 0, 10)
        return Settings(samples, entropy, schedule=schedule)
