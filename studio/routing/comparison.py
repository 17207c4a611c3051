"""A router beside the others on the same items: those that need no training, and those trained alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from studio.core.errors import BadRecipe, Cancelled, LoomError
from studio.core.late import torch
from studio.learning.fit import Stop
from studio.routing.baselines import oracle
from studio.routing.peft_routers import arrow, judge_library, xlora
from studio.routing.router import Kind, Router
from studio.routing.text import Judged, Shape, TextWorld, judge, learn_router, split_rows
from studio.routing.train import Settings

XLORA_RATE: Final = 3e-3
"""X-LoRA's classifier reads hidden states as they are, not scaled ones: a router's rate would be far too large."""


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What the router was trained on and how: others are trained alike."""

    world: TextWorld
    shape: Shape
    settings: Settings


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """The items to answer, the router that is judged, and its lesson where it was trained here."""

    test: TextWorld
    router: Router
    lesson: Lesson | None = None
    stop: Stop | None = None

    @property
    def total(self) -> float:
        """The sum of a decision's weights, the same for every router."""
        return self.router.k * self.router.omega

    @property
    def learned(self) -> Lesson:
        """The lesson; raises `BadRecipe` where there is none."""
        if self.lesson is None:
            why = "only a router trained here over frozen adapters has them"
            raise BadRecipe("There are no examples to train it on", why, "train one")
        return self.lesson


def _uniform(trial: Trial) -> Judged:
    even = replace(trial.router, kind="uniform", weight=torch.zeros_like(trial.router.weight))
    found = judge(trial.test, even)
    return replace(found, measures=replace(found.measures, found=None))  # it takes all, so it chooses none


def _oracle(trial: Trial) -> Judged:
    return oracle(trial.test, trial.router.k, torch.arange(len(trial.test)), omega=trial.router.omega)


def _arrow(trial: Trial) -> Judged:
    library = arrow(trial.test, trial.router.k, total=trial.total)
    return judge_library(trial.test, library, torch.arange(len(trial.test)), total=trial.total)


def _xlora(trial: Trial) -> Judged:
    lesson = trial.learned
    schedule = replace(lesson.settings.schedule, rate=XLORA_RATE)
    library, _ = xlora(
        lesson.world, split_rows(lesson.world, schedule.seed), schedule, total=trial.total, stop=trial.stop
    )
    return judge_library(trial.test, library, torch.arange(len(trial.test)), total=trial.total)


@dataclass(frozen=True, slots=True)
class _Trained:
    """Another kind of router on the same lesson."""

    kind: Kind

    def __call__(self, trial: Trial) -> Judged:
        lesson = trial.learned
        found = learn_router(lesson.world, replace(lesson.shape, kind=self.kind), lesson.settings, stop=trial.stop)
        return judge(trial.test, found.router)


BESIDE: Final[Mapping[str, tuple[str, Callable[[Trial], Judged]]]] = MappingProxyType(
    {
        "uniform": ("all, evenly", _uniform),
        "oracle": ("oracle", _oracle),
        "remix": ("ReMix", _Trained("remix")),
        "softmax": ("dense softmax", _Trained("softmax")),
        "topk": ("top-k softmax", _Trained("topk")),
        "arrow": ("Arrow (PEFT)", _arrow),
        "xlora": ("X-LoRA (PEFT)", _xlora),
    }
)
"""What can stand beside a router: a title, and what judges it."""


def beside(trial: Trial, names: Sequence[str]) -> Iterator[tuple[str, Judged | LoomError]]:
    """The router itself, then these, each as it is done; one that cannot be is its reason.

    Raises `BadRecipe` for a name that is none of `BESIDE`.
    """
    unknown = [name for name in names if name not in BESIDE]
    if unknown:
        raise BadRecipe(f"{unknown[0]!r} cannot stand beside a router", f"there are {', '.join(BESIDE)}")
    yield "router", judge(trial.test, trial.router)
    for name in names:
        if trial.stop and trial.stop():
            raise Cancelled("The comparison was stopped")
        try:
            yield name, BESIDE[name][1](trial)
        except Cancelled:
            raise
        except LoomError as error:
            yield name, error
