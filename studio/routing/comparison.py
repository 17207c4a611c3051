"""A router beside the others on the same items: those that need no training, and those trained alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Final

from studio.core.errors import BadRecipe, Cancelled, LoomError
from studio.core.late import torch
from studio.learning.fit import Stop
from studio.routing.baselines import ORACLE_LIMIT, oracle
from studio.routing.kinds import RouterKind, kinds
from studio.routing.peft_routers import arrow, judge_library, xlora
from studio.routing.router import Router
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


def _of_kind(kind: RouterKind, trial: Trial) -> Judged:
    """Another kind of router: trained on the same lesson, or as it is where it has nothing to learn."""
    if kind.trained_by == "nothing":
        blank = replace(trial.router, kind=kind.id, weight=torch.zeros_like(trial.router.weight))
        found = judge(trial.test, blank)
        return replace(found, measures=replace(found.measures, found=None))  # whatever is asked, so it chooses none
    lesson = trial.learned
    trained = learn_router(lesson.world, replace(lesson.shape, kind=kind.id), lesson.settings, stop=trial.stop)
    return judge(trial.test, trained.router)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What can be judged beside a router, and how; `formula` and `trained` are for the docs' table."""

    id: str
    title: str
    formula: str
    trained: str
    judge: Callable[[Trial], Judged]


_TRAINED: Final = MappingProxyType({"draws": "leave-one-out", "gradient": "ordinary gradient", "nothing": "nothing"})
_KINDS: Final = tuple(
    Baseline(kind.id, kind.title, kind.formula, _TRAINED[kind.trained_by], partial(_of_kind, kind))
    for kind in kinds().values()
)
_OTHERS: Final = (
    Baseline(
        "oracle",
        "oracle",
        f"ω for the best subset of each item, tried one by one; up to {ORACLE_LIMIT} subsets",
        "it has seen the answer",
        _oracle,
    ),
    Baseline(
        "arrow",
        "Arrow (PEFT)",
        "by token and module, top-k softmax of |x · v_i|, v_i the top right singular vector",
        "nothing",
        _arrow,
    ),
    Baseline(
        "xlora",
        "X-LoRA (PEFT)",
        "by token, a softmax classifier on the base's hidden states",
        "ordinary gradient",
        _xlora,
    ),
)
BASELINES: Final = MappingProxyType({one.id: one for one in (*_KINDS, *_OTHERS)})
"""What can be judged beside a router: every kind, and what is no kind of ours."""


def beside(trial: Trial, names: Sequence[str]) -> Iterator[tuple[str, Judged | LoomError]]:
    """The router itself, then these, each as it is done; one that cannot be is its reason. Raises `BadRecipe` early."""
    require_baselines(names)
    yield "router", judge(trial.test, trial.router)
    for name in names:
        if trial.stop and trial.stop():
            raise Cancelled("The comparison was stopped")
        try:
            yield name, BASELINES[name].judge(trial)
        except Cancelled:
            raise
        except LoomError as error:
            yield name, error


def require_baselines(names: Sequence[str]) -> None:
    """Raise `BadRecipe` for a name that is none of `BASELINES`."""
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise BadRecipe(f"{unknown[0]!r} cannot be compared with a router", f"there are {', '.join(BASELINES)}")
