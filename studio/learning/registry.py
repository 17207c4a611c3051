"""Learners: how the coefficients of adapters are learned. Each is declared once, by a record in the file that does it.

Command line, page, docs table and contract test are made from these records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, NamedTuple, Protocol

from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe
from studio.core.registry import label
from studio.learning.coefficients import OnStep, Settings, Soup
from studio.learning.controls import TargetSettings
from studio.learning.data import Examples
from studio.learning.fit import Schedule, State, Stop
from studio.text.bases import TextBase

Selection = Literal["score", "random", "rank", "cosine", "absolute", "clamp", "quasi_fim", "distance"]

SHAPE: Final = ("parameterisation", "granularity", "init", "start")
"""What decides which coefficients there are, and where they begin."""
PACE: Final = ("rate", "steps", "batch", "seed")
"""What decides how long and how fast."""
_SCHEDULED: Final = frozenset(field.name for field in fields(Schedule))


class Learn(Protocol):
    """Fits coefficients of all the adapters it is given; `state` takes a run up again, `stop()` true ends it."""

    def __call__(
        self,
        base: TextBase,
        adapters: Sequence[Adapter],
        examples: Examples,
        settings: Settings,
        *,
        state: State | None = None,
        on_step: OnStep | None = None,
        stop: Stop | None = None,
    ) -> Soup:
        """What was learned; never changes base or adapters."""


class Pool(NamedTuple):
    """Adapters to learn coefficients of, and their places among those given; a target LoRA stands first, at -1."""

    places: tuple[int, ...]
    adapters: tuple[Adapter, ...]


class Select(Protocol):
    """Chooses some of the adapters before anything is learned."""

    def __call__(
        self,
        base: TextBase,
        adapters: Sequence[Adapter],
        examples: Examples,
        request: LearnRequest,
        *,
        target: Adapter | None = None,
        stop: Stop | None = None,
    ) -> Pool:
        """The chosen ones; `target` is the target LoRA that the request asks for, where it is trained already."""


@dataclass(frozen=True, slots=True)
class Learner:
    """A way to learn coefficients.

    `settings` are its defaults and `uses` the names of those that change what it does, of `Settings` and of its
    schedule. `objective` is what it makes small, as a run's end tells it; `step` what it counts. With `resumes` a
    stopped run goes on and gives what one run would have. `select`, where there is one, chooses adapters first.
    """

    id: str
    title: str
    summary: str
    source: str
    objective: str
    learn: Learn
    settings: Settings = Settings()  # noqa: RUF009  frozen, and made of numbers
    uses: tuple[str, ...] = (*SHAPE, "l1", *PACE)
    step: str = "step"
    resumes: bool = True
    select: Select | None = None

    @property
    def label(self) -> str:
        """The learner as a choice of a list."""
        return label(self.title, self.summary)

    def adjusted(self, **given: Any) -> Settings:
        """Its settings with these in place of its own; None, and what it does not use, leaves its own."""
        used = {name: value for name, value in given.items() if name in self.uses and value is not None}
        pace = {name: value for name, value in used.items() if name in _SCHEDULED}
        shape = {name: value for name, value in used.items() if name not in _SCHEDULED}
        return replace(self.settings, **shape, schedule=replace(self.settings.schedule, **pace))


@dataclass(frozen=True, slots=True)
class LearnRequest:
    """What is to be learned and how; the learner's own settings unless others are given.

    `keep` and `by` say how many adapters are selected and by what, where the learner selects; `target` are the settings
    of a target LoRA that is trained first and joins those, None for no such one. Raises `BadRecipe` for none to keep,
    and for a target LoRA that nothing would select beside.
    """

    learner: Learner
    given: Settings | None = None
    keep: int = 5
    by: Selection = "score"
    target: TargetSettings | None = None

    def __post_init__(self) -> None:
        """Check what a slice would take for something else."""
        if self.keep < 1:
            raise BadRecipe(f"keep is {self.keep}", "it is 1 or more")
        if self.target and self.learner.select is None:
            raise BadRecipe(f"{self.learner.title} selects no adapters", "so no target LoRA can join those it selects")

    @property
    def settings(self) -> Settings:
        """How it is learned."""
        return self.given or self.learner.settings

    @property
    def seed(self) -> int:
        """The seed of all that is drawn."""
        return self.settings.schedule.seed
