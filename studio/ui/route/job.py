"""One visitor's router: in training on a thread of its own, stopped and taken up again, or opened from a file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe, LoomError
from studio.routing.answer import check_fits
from studio.routing.comparison import BASELINES, Lesson, Trial, beside
from studio.routing.items import Labelled, skill_items
from studio.routing.measures import Measures
from studio.routing.router import BASE, Router
from studio.routing.text import Judged, Shape, learn_router, text_world
from studio.routing.train import Settings, Step, Trained
from studio.session.jobs import WAITING, Job, Places, Run
from studio.session.runs import Kind
from studio.session.workspace import Workspace
from studio.text.bases import TextBase
from studio.text.skills import COMPOSITIONS, SINGLES, SKILLS
from studio.ui.shell import task_choices


@dataclass(frozen=True, slots=True, eq=False)
class RouteRequest:
    """What a run is to do: the items, the router's shape, and how it is trained."""

    items: tuple[Labelled, ...]
    shape: Shape
    settings: Settings

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks' names, as the measures have them."""
        return tuple(sorted({one.task for one in self.items}))


@dataclass(eq=False)
class Routing(Run):
    """A run. `history` grows while it goes on; `said` is what it is doing, in words; `router` is there at its end."""

    adapters: tuple[Adapter, ...]
    places: Places
    open_base: Callable[[], TextBase]
    request: RouteRequest
    start: Trained | None = None
    history: list[tuple[int, Measures]] = field(default_factory=list)
    status: str = WAITING
    trained: Trained | None = None
    file: Path | None = None
    lesson: Lesson | None = None

    def __post_init__(self) -> None:
        self.stopped = threading.Event()
        self.history = list(self.start.history) if self.start else []
        self.job = Job(self._work)

    @property
    def names(self) -> tuple[str, ...]:
        """What the router chooses among."""
        return tuple(a.name for a in self.adapters) + ((BASE,) if self.request.shape.with_base else ())

    @property
    def can_resume(self) -> bool:
        """Whether there are steps left to go on with."""
        done = self.trained
        return done is not None and not self.is_going and done.state.step < self.request.settings.schedule.steps

    def again(self) -> Routing:
        """The same run, from where it was stopped."""
        if not self.can_resume:
            raise LoomError("There is nothing to resume", "the run is at its end", "train again")
        return Routing(self.adapters, self.places, self.open_base, self.request, self.trained)

    def _work(self, on_step: Any) -> None:
        with self.places.taken(self.stopped):
            self.status = "Opening the base model"
            base = self.open_base()
            self.status = "Reading the prompts"
            world = text_world(base, self.adapters, self.request.items, self.request.shape)
            self.status = "Measuring the start"
            shape, settings = self.request.shape, self.request.settings
            self.lesson = Lesson(world, shape, settings)
            self.trained = learn_router(
                world, shape, settings, resume=self.start, on_step=self._seen, stop=self.stopped.is_set
            )
            self.history = list(self.trained.history)

    def _seen(self, step: Step) -> None:
        if not self.history or self.history[-1][1] is not step.measures:
            self.history.append((step.step if self.history else 0, step.measures))
        self.status = f"Step {step.step} of {step.steps}"


@dataclass(eq=False)
class Comparison(Run):
    """The router of a run beside all others, on questions of the same skills that no run sees; rows come one by one."""

    run: Routing
    items: tuple[Labelled, ...]
    rows: list[tuple[str, Judged | LoomError]] = field(default_factory=list)
    status: str = WAITING

    def __post_init__(self) -> None:
        self.stopped = threading.Event()
        self.job = Job(self._work)

    def _work(self, on_step: Any) -> None:
        assert self.run.trained is not None
        with self.run.places.taken(self.stopped):
            self.status = "Reading the questions"
            world = text_world(self.run.open_base(), self.run.adapters, self.items, self.run.request.shape)
            trial = Trial(world, self.run.trained.router, self.run.lesson, self.stopped.is_set)
            names = [name for name in BASELINES if name != self.run.request.shape.kind]
            titles = ["this router", *(BASELINES[name].title for name in names), ""]
            self.status = f"Judging {titles[0]}"
            for (_, row), title, following in zip(beside(trial, names), titles, titles[1:], strict=False):
                self.rows.append((title, row))
                self.status = f"Judging {following}"


def comparison(run: Routing | None, count: int) -> Comparison:
    """A comparison of a finished run; raises `LoomError` where there is none, or no question is left to ask."""
    if run is None or run.is_going or run.trained is None:
        raise LoomError("There is no router to judge", next="train one first")
    skills = [task for task in run.request.tasks if task in SKILLS]
    if not skills:
        raise LoomError(
            "There are no other questions", "your file was learned from", "judge it by `route --test` with another file"
        )
    return Comparison(run, tuple(skill_items(skills, "test", count, 1, k=run.request.shape.k)))


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A router that can write: trained here, or opened from a file."""

    router: Router
    adapters: tuple[Adapter, ...]
    title: str


ROUTING = Kind[Routing]("routing")
COMPARISON = Kind[Comparison]("router comparison", "comparison")
ROUTER = Kind[Ready]("router", "router")


def opened(router: Router, workspace: Workspace, title: str) -> Ready:
    """A router read from a file, over the adapters in the workspace; raises `BadRecipe` where it knows others."""
    return Ready(router, check_fits(router, workspace.adapters), title)


def choices(workspace: Workspace) -> list[tuple[str, str]]:
    """(title, value) of the tasks that the adapters in the workspace answer, and a visitor's own files."""
    own = [choice for choice in task_choices.choices(workspace) if choice[1].startswith(task_choices.OWN)]
    return [(SKILLS[name].title, name) for name in fitting(workspace)] + own


def fitting(workspace: Workspace) -> list[str]:
    """The skills and pairs whose adapters are all in the workspace."""
    here = set(task_choices.embedded(workspace))
    return [name for name in (*SINGLES, *COMPOSITIONS) if set(name.split("+")) <= here]


def labelled(workspace: Workspace, tasks: Sequence[str], count: int, seed: int, k: int) -> tuple[Labelled, ...]:
    """The items of some chosen tasks; raises `LoomError` for none, or a task that is no longer there."""
    skills = [task for task in tasks if not task.startswith(task_choices.OWN)]
    unknown = [task for task in skills if task not in fitting(workspace)]
    if not tasks or unknown:
        what = f"{unknown[0]} does not fit the desk" if unknown else "No task is chosen"
        raise BadRecipe(what, next="choose some of the list, or upload a JSONL of prompts and answers")
    found = skill_items(skills, "train", count, seed, k=k)
    for task in tasks:
        if task.startswith(task_choices.OWN):
            given = task_choices.task(workspace, task, count, seed)
            if given.kind != "exact":
                raise BadRecipe(f"{given.name} holds texts", "a router learns from questions", "give prompts too")
            found += [Labelled(item, given.name) for item in given.items]
    return tuple(found)
