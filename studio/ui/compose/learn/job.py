"""One visitor's learning run: on a thread of its own, to be looked at while it goes on, stopped, and taken up again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from studio.core.adapter import Adapter
from studio.core.errors import LoomError, NotAtHand
from studio.formats import save_adapter
from studio.learning.coefficients import Coefficients, Step
from studio.learning.data import Examples
from studio.learning.learners import Learned, coefficients, edited_sources, resumed
from studio.learning.registry import LearnRequest
from studio.recipes.recipe import Recipe
from studio.recipes.sources import Sources
from studio.session.jobs import WAITING, Job, Places, Run
from studio.session.runs import Kind
from studio.session.store import Sessions
from studio.session.workspace import Workspace
from studio.text.bases import TextBase, is_at_hand
from studio.ui.compose.preview import base_name

OpenBase = Callable[[], TextBase]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a run gave: the recipe it was written into, over which sources, and from which examples by which request."""

    recipe: Recipe
    sources: Sources
    examples: Examples
    request: LearnRequest
    learned: Learned


@dataclass(eq=False)
class Training(Run):
    """A run. `losses`, `valid` and `coefficients` grow while it goes on; `said` is what it is doing, in words."""

    workspace: Workspace
    places: Places
    open_base: OpenBase
    examples: Examples
    request: LearnRequest
    start: Learned | None = None
    losses: list[float] = field(default_factory=list)
    valid: list[tuple[int, float]] = field(default_factory=list)
    rows: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    coefficients: Coefficients | None = None
    steps: int = 0
    status: str = WAITING
    result: Result | None = None

    def __post_init__(self) -> None:
        self.stopped = threading.Event()
        self.recipe, self.pool = self.workspace.recipe, self.workspace.sources()
        self.job = Job(self._work)

    @property
    def can_resume(self) -> bool:
        """Whether there are steps left to go on with."""
        done = self.result
        return (
            done is not None
            and not self.is_going
            and self.stopped.is_set()
            and self.request.learner.resumes
            and done.learned.soup.state.step < self.request.settings.schedule.steps
        )

    def again(self) -> Training:
        """The same run, from where it was stopped."""
        if self.result is None or not self.can_resume:
            raise LoomError("There is nothing to resume", "the run is at its end", "learn again")
        soup = self.result.learned.soup
        return Training(
            self.workspace,
            self.places,
            self.open_base,
            self.examples,
            self.request,
            self.result.learned,
            list(soup.state.losses),
            list(soup.state.valid),
        )

    def _work(self, on_step: Any) -> None:
        with self.places.taken(self.stopped):
            self.status = "Opening the base model"
            base = self.open_base()
            adapters = edited_sources(self.recipe, self.pool)
            self.status = "Choosing adapters" if self.request.learner.select else "Measuring the start"
            found = self._learned(base, adapters)
            self._show(found)
            self.result = self._written(found)
            self.status = ""

    def _learned(self, base: TextBase, adapters: Sequence[Adapter]) -> Learned:
        """Coefficients learned from the start, or from where the run was stopped."""
        asked, at, stop = (self.examples, self.request), self.start, self.stopped.is_set
        if at is None:
            return coefficients(base, adapters, *asked, on_step=self._seen, stop=stop)
        return resumed(base, at.places, at.adapters, *asked, at.soup.state, on_step=self._seen, stop=stop)

    def _seen(self, step: Step) -> None:
        self.losses.append(step.loss)
        if not self.valid or step.valid != self.valid[-1][1]:
            self.valid.append((step.step, step.valid))
        self.coefficients, self.rows, self.names, self.steps = step.coefficients, step.rows, step.names, step.steps
        self.status = f"Step {step.step} of {step.steps}, validation loss {step.valid:.3f}"

    def _show(self, found: Learned) -> None:
        soup = found.soup
        self.coefficients, self.rows, self.names = soup.coefficients, soup.rows, soup.names
        self.valid, self.losses = list(soup.state.valid), list(soup.state.losses)
        self.steps = max(self.steps, soup.state.step)

    def _written(self, found: Learned) -> Result:
        """Put the coefficients in the workspace: one step of its history. On other adapters, keep them as a version."""
        recipe, pool = self._joined(found)
        title = self.request.learner.title
        note = f"Coefficients by {title}, learned from {len(self.examples.all)} examples."
        learned = found.into(recipe).changed(name=f"learned: {self.request.learner.id}", note=note)
        if _places(self.workspace.recipe) == _places(self.recipe):
            self.workspace.load(learned, f"learned by {title}")
        else:
            self.workspace.keep(f"learned by {title}", learned)
        return Result(learned, pool, self.examples, self.request, found)

    def _joined(self, found: Learned) -> tuple[Recipe, Sources]:
        """The recipe with the target LoRA as its last source, saved in the visitor's workspace, if one was trained."""
        if -1 not in found.places:
            return self.recipe, self.pool
        target = found.adapters[0]
        number = 1 + sum(1 for _ in self.workspace.folder.glob("target-*"))
        save_adapter(target, self.workspace.folder / f"target-{number}")
        added = {"path": f"upload:target-{number}", "name": f"target {number}"}
        sources = [*self.recipe.model_dump()["sources"], added]
        adapters = (*self.pool.adapters, replace(target, name=f"target {number}"))
        return self.recipe.changed(sources=sources), Sources(adapters, hashes=(*self.pool.hashes, None))


LEARNING = Kind[Training]("learning")


def _places(recipe: Recipe) -> list[tuple[Any, ...]]:
    """What identifies a recipe's sources, in their order."""
    return [(source.path, source.hub, source.revision) for source in recipe.sources]


def open_base(sessions: Sessions, workspace: Workspace) -> TextBase:
    """The base under the open adapters, loaded once for all visitors; raises `NotAtHand` for one that is not here."""
    name = base_name(workspace)
    if not is_at_hand(name):
        raise NotAtHand(f"{name} is not on this machine", next="load it under Reading settings, in Compose")
    return sessions.bases.get(name)
