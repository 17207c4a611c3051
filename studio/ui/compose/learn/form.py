"""What the controls of the room Learn say, and the request that they spell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from studio.learning.coefficients import Granularity, Init, Parameterisation
from studio.learning.controls import TargetSettings
from studio.learning.fit import Schedule
from studio.learning.learners import learner_by_id, learners
from studio.learning.registry import LearnRequest, Selection
from studio.ui.shell.fields import number, one_of, whole


@dataclass(frozen=True, slots=True)
class LearnForm:
    """The controls of `LearningPanel` by name, as they stand when a run begins."""

    learner: str | None
    examples: str | None
    count: float | None
    shape: str | None
    grain: str | None
    init: str | None
    rate: float | None
    steps: float | None
    batch: float | None
    l1: float | None
    seed: float | None
    keep: float | None
    by: str | None
    pooled: bool

    def request(self) -> LearnRequest:
        """The request that the controls spell; raises `LoomError` for what no control offers."""
        learner = learner_by_id(one_of("learner", self.learner, learners()))
        seed = whole("The seed", self.seed, 0, 2**31 - 1)
        settings = learner.adjusted(
            parameterisation=one_of("coefficients", self.shape, get_args(Parameterisation)),
            granularity=one_of("granularity", self.grain, get_args(Granularity)),
            init=one_of("start", self.init, get_args(Init)),
            l1=number("L1", self.l1, 0, 10),
            rate=number("The rate", self.rate, 0, 10),
            steps=whole("Steps", self.steps, 1, 5000),
            batch=whole("The batch", self.batch, 1, 256),
            seed=seed,
        )
        target = TargetSettings(schedule=Schedule(3e-4, 400, seed=seed)) if learner.select and self.pooled else None
        by = one_of("selection", self.by, get_args(Selection))
        return LearnRequest(learner, settings, whole("Adapters to select", self.keep, 1, 16), by, target)
