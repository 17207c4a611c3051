"""One visitor's judging: rows of the scoreboard as they are measured, on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from studio.core.errors import Cancelled
from studio.evaluation.scoreboard import Board, Entry, Row, entry_of, judge
from studio.evaluation.tasks import Task
from studio.formats import save_adapter
from studio.learning.baselines import controls
from studio.learning.controls import TargetSettings
from studio.learning.data import unseen
from studio.learning.fit import Schedule
from studio.learning.regmean import input_grams, regmean
from studio.recipes.recipe import Recipe, Source, parse
from studio.recipes.sources import Sources
from studio.session.jobs import WAITING, Job, Places, Run
from studio.session.runs import Kind
from studio.session.workspace import Workspace
from studio.text.bases import TextBase
from studio.text.skills import items
from studio.ui.compose.learn.job import Result

TARGET_STEPS = 200


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is to be judged, over which adapters and tasks; `learned` is the run behind the recipe, if one is.

    `regmean` adds that merge, from the chosen adapters' own training questions. `current` is the open recipe, judged as
    a row of its own; it may have more sources than `pins`, the adapters chosen.
    """

    sources: Sources
    pins: tuple[Source, ...]
    recipes: tuple[Recipe, ...]
    tasks: tuple[Task, ...]
    own: dict[str, str]
    regmean: bool = False
    current: Recipe | None = None
    learned: Result | None = None


@dataclass(eq=False)
class ScoringJob(Run):
    """A judging under way: `rows` grow, `done` of `total` with what is being done in `said`."""

    workspace: Workspace
    places: Places
    open_base: Callable[[], TextBase]
    question: Question
    rows: list[Row] = field(default_factory=list)
    status: str = WAITING
    done: int = 0
    total: int = 0

    def __post_init__(self) -> None:
        self.stopped = threading.Event()
        self.job = Job(self._work)

    @property
    def board(self) -> Board:
        """The rows so far."""
        return Board(tuple(self.rows))

    def _work(self, on_step: Any) -> None:
        with self.places.taken(self.stopped):
            self.status = "Opening the base model"
            base = self.open_base()
            asked = self.question
            entries = [entry_of(recipe) for recipe in asked.recipes]
            if asked.regmean:
                entries.append(self._regmean(base))
            if asked.current is not None:
                entries += self._workspace_entries(base, asked.current)
            tasks = self._fair(asked.tasks)
            self.total = 1 + len(asked.sources.adapters) + len(entries)
            for row in judge(
                base,
                asked.sources,
                entries,
                tasks,
                own=asked.own,
                pins=asked.pins,
                on_step=self._step,
                stop=self.stopped.is_set,
            ):
                self.rows.append(row)

    def _workspace_entries(self, base: TextBase, recipe: Recipe) -> list[Entry]:
        """The recipe in the workspace; one that was learned never without its controls."""
        whole = self.workspace.sources()
        merged = self.workspace.compose().adapter
        name = recipe.name or "on the desk"
        found = [Entry(name, "merge", recipe, merged)]
        run = self.question.learned
        if run is None:
            return found
        target = TargetSettings(schedule=Schedule(1e-3, TARGET_STEPS, check_every=20, seed=run.request.seed))
        beside = controls(
            base, recipe, whole, run.examples, run.request, target=target, on_part=self._part, stop=self.stopped.is_set
        )
        for entry in beside:
            if self.stopped.is_set():
                raise Cancelled("The judging was stopped before the controls were there")
            found.append(entry)
        return found

    def _regmean(self, base: TextBase) -> Entry:
        """RegMean as a row. No recipe over the adapters gives it, so it is saved, and its recipe has it as a source."""
        self.status = "RegMean: reading each adapter's own questions"
        adapters = self.question.sources.adapters
        grams = [input_grams(base, adapter, items(adapter.name, "train", 100, 0)) for adapter in adapters]
        merged = regmean(adapters, grams)
        number = 1 + sum(1 for _ in self.workspace.folder.glob("regmean-*"))
        save_adapter(merged, self.workspace.folder / f"regmean-{number}")
        recipe = parse({"sources": [{"path": f"upload:regmean-{number}", "name": "regmean", "weight": 1.0}]})
        return Entry("RegMean, own data", "merge", recipe, merged)

    def _fair(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks without what was learned from."""
        run = self.question.learned
        return [unseen(task, run.examples) if run else task for task in tasks]

    def _part(self, name: str) -> None:
        how = {
            "target LoRA": "Control: a LoRA trained on the same examples",
            "random LoRAs": "Control: random adapters, learned alike",
        }
        self.status = how.get(name, name)

    def _step(self, done: int, total: int, what: str) -> None:
        self.done, self.total, self.status = done, total, what


SCORING = Kind[ScoringJob]("scoring", "judging")


def chosen(workspace: Workspace, names: Sequence[str]) -> tuple[Sources, tuple[Source, ...]]:
    """The workspace's adapters of these names, and their sources without weights of their own: a sweep sets them."""
    found = [
        (entry.adapter, source.model_copy(update={"weight": None, "modules": {}}), entry.sha256)
        for entry, source in zip(workspace.entries, workspace.recipe.sources, strict=True)
        if entry.adapter.name in names
    ]
    adapters, pins, hashes = zip(*found, strict=True) if found else ((), (), ())
    return Sources(adapters, hashes=hashes), pins
