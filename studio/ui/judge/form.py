"""What the controls of the room Scoreboard say, and the question that they spell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studio.core.errors import LoomError
from studio.evaluation.scoreboard import read_sweep
from studio.evaluation.tasks import Task
from studio.recipes.recipe import Recipe, Source
from studio.session.workspace import Workspace
from studio.ui.compose.learn.job import Result
from studio.ui.judge.job import Question, chosen
from studio.ui.shell import task_choices
from studio.ui.shell.fields import text, texts

REGMEAN = "regmean"  # no registered method: it needs activations
MAX_ROWS = 60
"""Swept rows on the page; the command line judges any number."""


@dataclass(frozen=True, slots=True)
class SweepForm:
    """The controls of `ScoringPanel` by name, as they stand when a judging begins."""

    adapters: list[str] | None
    tasks: list[str] | None
    count: float | None
    own: str | None
    with_current: bool
    methods: list[str] | None
    weights: str | None
    scales: str | None
    seeds: str | None
    knob: str | None
    values: str | None

    def question(self, workspace: Workspace, learned: Result | None) -> Question:
        """The question that the controls spell; raises `LoomError` for what cannot be asked."""
        names, tasks = texts(self.adapters), texts(self.tasks)
        if not names:
            raise LoomError("No adapter is chosen", next="put adapters on the desk and tick some")
        if not tasks:
            raise LoomError("No task is chosen", next="choose some, or upload a JSONL of prompts and answers")
        if not isinstance(self.count, (int, float)) or not 1 <= self.count <= 10_000:
            raise LoomError(f"{self.count!r} questions cannot be asked", next="choose 10 to 400")
        count = int(self.count)
        sources, pins = chosen(workspace, names)
        asked = {task.name: task for task in (task_choices.task(workspace, value, count, 1) for value in tasks)}
        own = _own(workspace, [adapter.name for adapter in sources.adapters], text(self.own), count, asked)
        with_regmean, recipes = self._with_regmean(workspace), self._recipes(pins)
        current = workspace.recipe if self.with_current or learned else None
        return Question(sources, pins, recipes, tuple(asked.values()), own, with_regmean, current, learned)

    def _recipes(self, pins: tuple[Source, ...]) -> tuple[Recipe, ...]:
        """The swept recipes; raises `LoomError` for more than the page judges."""
        ids = [id for id in texts(self.methods) if id != REGMEAN]
        if not ids:
            return ()
        knob, values = text(self.knob), text(self.values)
        knobs = {knob: values} if knob and values.strip() else {}
        scales, seeds = text(self.scales) or "1", text(self.seeds) or "0"
        swept = read_sweep(pins, ids, weights=text(self.weights), scales=scales, seeds=seeds, knobs=knobs).recipes()
        if len(swept) > MAX_ROWS:
            why = f"the page judges {MAX_ROWS}"
            raise LoomError(f"The sweep has {len(swept)} rows", why, "try fewer values, or `loom score`")
        return tuple(swept)

    def _with_regmean(self, workspace: Workspace) -> bool:
        """Whether RegMean is to be judged; raises `LoomError` where it cannot be."""
        if REGMEAN not in texts(self.methods):
            return False
        if len(task_choices.embedded(workspace)) < len(workspace.entries):
            why = "it needs each adapter's own training questions, and knows those of the embedded skills"
            raise LoomError("RegMean cannot be judged here", why, "take it off the methods, or use it from Python")
        return True


def _own(workspace: Workspace, names: Sequence[str], said: str, count: int, tasks: dict[str, Task]) -> dict[str, str]:
    """Each source's own task, added to the tasks: the embedded skills know theirs, the visitor says the others."""
    own = {name: task for name, task in task_choices.own_tasks(workspace).items() if name in names}
    for part in filter(None, (part.strip() for part in said.split(";"))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in names:
            raise LoomError(f"No chosen adapter is called {name!r}", f"there are {', '.join(names)}", "write name=task")
        own[name] = value
    named = {}
    for name, value in own.items():
        task = task_choices.task(workspace, value, count, 1)
        tasks.setdefault(task.name, task)
        named[name] = task.name
    return named
