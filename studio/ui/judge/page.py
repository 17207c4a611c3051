"""The room Scoreboard: merges of the open adapters, judged with the base, each source, and the controls."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from studio.core.errors import Cancelled, LoomError
from studio.core.files import write_atomic
from studio.evaluation.scoreboard import Board
from studio.merging import methods
from studio.session.session import Session
from studio.session.workspace import Workspace
from studio.ui.compose.learn.job import LEARNING, Result, open_base
from studio.ui.judge import table
from studio.ui.judge.form import REGMEAN, SweepForm
from studio.ui.judge.job import SCORING, ScoringJob
from studio.ui.shell import markup, task_choices
from studio.ui.shell.forms import submits
from studio.ui.shell.panel import EDIT, PRIVATE, Shared, shows_errors, shows_errors_while
from studio.ui.shell.room import Room

_PAUSE = 0.5
_REGMEAN_TITLE = "RegMean: from each skill's own questions"


_FIRST = (
    "Judge merges of the adapters on the desk on questions nobody trained on",
    (
        "Every method is tried with every weighting at every task. Rows come as they are judged; Cancel keeps them.",
        "The base and each adapter alone stand in the same table, with 95 % intervals. Answers are checked by a "
        "program: right or wrong.",
        "A row can be put back on the desk as a recipe; CSV and JSON hold all of them.",
    ),
)


class ScoringPanel:
    """Chooses what is compared at which tasks, shows rows as they come, opens them, writes files."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.filled = gr.State(False)  # whether the page shows the visitor's judging
        with gr.Row():
            with gr.Column(scale=4, min_width=320, elem_id="scoring"):
                self._build_choice()
            with gr.Column(scale=8, min_width=320, elem_id="scored"):
                self.state = gr.HTML(markup.first_view(*_FIRST), elem_id="score-state")
                self.table = gr.HTML(elem_id="board")
                with gr.Row(visible=False) as self.bar:
                    self.open = gr.Dropdown(
                        [], label="Put a row on the desk", elem_id="open-row", scale=3, min_width=180
                    )
                    self.csv = gr.DownloadButton("CSV", size="sm", scale=1, min_width=60, elem_id="board-csv")
                    self.json = gr.DownloadButton("JSON", size="sm", scale=1, min_width=60, elem_id="board-json")
                self.plot = gr.Plot(
                    label="Figures with 95 % intervals", show_label=False, visible=False, elem_id="multiples"
                )

    def _build_choice(self) -> None:
        self.adapters = gr.CheckboxGroup([], label="Adapters", elem_id="score-adapters")
        self.tasks = gr.Dropdown([], label="Tasks", multiselect=True, elem_id="tasks")
        self.upload = gr.UploadButton(
            "Your own task (JSONL)", file_types=[".jsonl", ".json"], size="sm", elem_id="own-task"
        )
        self.methods = gr.Dropdown(
            [*((found.title, id) for id, found in methods().items()), (_REGMEAN_TITLE, REGMEAN)],
            value=["cat", "ties", "lego"],
            label="Methods",
            multiselect=True,
            elem_id="score-methods",
        )
        self.weights = gr.Textbox(
            "1; 0.5", label="Weights to try", info="1; 0.5 is the sum, then the half. 1,0.2; 0.2,1 sets each adapter.",
            elem_id="score-weights",
        )  # fmt: skip
        self.count = gr.Slider(10, 400, 50, step=10, label="Questions of each task", elem_id="score-count")
        self.with_current = gr.Checkbox(True, label="The recipe on the desk too", elem_id="desk-too")
        with gr.Accordion("Sweep more: scale, seeds, a knob, own tasks", open=False):
            with gr.Row():
                self.scales = gr.Textbox("1", label="Scales", min_width=80, elem_id="score-scales")
                self.seeds = gr.Textbox("0", label="Seeds", info="For methods that draw.", min_width=80)
            with gr.Row():
                self.knob = gr.Dropdown([], label="Knob", min_width=120, elem_id="score-knob")
                self.values = gr.Textbox("", label="Its values", placeholder="4,8,16", min_width=100)
            self.own = gr.Textbox(
                "", label="Own tasks", info="adapter=task; the embedded skills know theirs.", elem_id="own-tasks"
            )
        with gr.Row():
            self.judge = gr.Button("Judge", variant="primary", size="sm", min_width=70, elem_id="judge")
            self.halt = gr.Button("Cancel", size="sm", min_width=60, interactive=False, elem_id="judge-stop")

    # Listening -------------------------------------------------------------------------------------------------------

    def wire(self, tab: gr.Tab) -> None:
        """Connect the listeners; the choices follow the workspace when `tab` is opened."""
        token, every = self.shared.token, self.shared.controls()
        shown = [self.state, self.table, self.plot, self.bar, self.open, self.csv, self.json, self.judge, self.halt]
        shown.append(self.filled)
        live: dict[str, Any] = {**PRIVATE, "show_progress": "hidden", "concurrency_limit": None}
        tab.select(
            self.on_open,
            [token, self.tasks, self.methods, self.filled],
            [self.adapters, self.tasks, self.knob, *shown],
            **live,
        )
        self.methods.input(self.on_methods, [self.methods], self.knob, **EDIT)
        self.upload.upload(self.on_upload, [token, self.upload, self.tasks], self.tasks, **PRIVATE)
        self.judge.click(**submits(self.on_judge, SweepForm, self, token), outputs=shown, **live)
        self.halt.click(self.on_stop, [token], self.halt, **EDIT)
        self.open.input(self.on_row, [token, self.open], [*every, self.state], **EDIT)

    @shows_errors_while
    def on_open(
        self, token: str, tasks: list[str] | None, ids: list[str] | None, is_filled: bool = False
    ) -> Iterator[dict[Any, Any]]:
        """The tab was opened: adapters and tasks of the workspace, and the judging if one goes on."""
        workspace = self.shared.workspace(token)
        names = [adapter.name for adapter in workspace.adapters]
        listed = task_choices.choices(workspace, ("test", "kept"))
        kept = [task for task in tasks or [] if task_choices.fits(workspace, task)]
        fitting = task_choices.fitting(workspace)
        value = kept or (
            [f"{fitting}:test", f"{fitting}:kept"] if fitting else list(task_choices.own_tasks(workspace).values())
        )
        run = self.run(token)
        first = {self.state: markup.first_view(*_FIRST, *task_choices.example(fitting))} if run is None else {}
        yield {
            self.adapters: gr.update(choices=names, value=names),
            self.tasks: gr.update(choices=listed, value=value),
            self.knob: self.on_methods(ids),
            **first,
        }
        if run is not None and run.is_going:
            yield from self.follow(token, run)
        elif run is not None and not is_filled:
            yield self._ended(token, run)

    @shows_errors
    def on_methods(self, ids: list[str] | None) -> Any:
        """The knobs of the methods chosen."""
        known = methods()
        found = {name: f"{name} ({id})" for id in ids or [] if id in known for name in known[id].knobs}
        return gr.update(choices=[("none", ""), *((title, name) for name, title in found.items())], value="")

    @shows_errors
    def on_upload(self, token: str, file: str | None, tasks: list[str] | None) -> Any:
        """A visitor's own task."""
        workspace = self.shared.workspace(token)
        if not file:
            return {}
        value = task_choices.receive(workspace, file)
        chosen_tasks = list(dict.fromkeys([*(tasks or []), value]))
        return gr.update(choices=task_choices.choices(workspace, ("test", "kept")), value=chosen_tasks)

    @shows_errors_while
    def on_judge(self, token: str, form: SweepForm) -> Iterator[dict[Any, Any]]:
        """Begin a judging and show it."""
        session = self.shared.session(token)
        run = session.runs.begin(SCORING, partial(self._ordered, session, form))
        yield from self.follow(token, run)

    def _ordered(self, session: Session, form: SweepForm) -> ScoringJob:
        """The judging that the controls spell."""
        workspace, sessions = session.workspace, self.shared.sessions
        question = form.question(workspace, learned_in(session))
        return ScoringJob(workspace, sessions.places, partial(open_base, sessions, workspace), question)

    def run(self, token: str) -> ScoringJob | None:
        """The visitor's judging, if there is one."""
        return self.shared.session(token).runs.get(SCORING)

    @shows_errors
    def on_stop(self, token: str) -> Any:
        """Cancel: the rows that are there stay."""
        run = self.run(token)
        if run is not None:
            run.cancel()
        return gr.update(interactive=False)

    @shows_errors
    def on_row(self, token: str, place: int | None) -> dict[Any, Any]:
        """Put a row's recipe in the workspace."""
        workspace, run = self.shared.workspace(token), self.run(token)
        rows = run.rows if run is not None else []
        if not isinstance(place, int) or not 0 <= place < len(rows):
            return {}
        entry = rows[place].entry
        if entry.recipe is None:
            raise LoomError(
                f"{entry.name} is not a recipe", "it was trained or drawn as a control", "choose another row"
            )
        if entry.recipe.digest() == workspace.recipe.digest():
            return {}
        workspace.load(entry.recipe, f"row {entry.name}")
        status = markup.message(f"{entry.name} is on the desk; Undo brings the former back.", "good")
        return {**self.shared.refresh(workspace), self.state: status}

    def follow(self, token: str, run: ScoringJob) -> Iterator[dict[Any, Any]]:
        """A judging as it goes on, and what came of it."""
        seen = -1
        yield {self.filled: True, self.state: _progress(run), **self.buttons(going=True)}
        while not run.job.wait(_PAUSE):
            found: dict[Any, Any] = {self.state: _progress(run)}
            if len(run.rows) != seen:
                seen = len(run.rows)
                found[self.table] = table.table(list(run.rows))
            yield found
        try:
            run.job.result()
        except Cancelled:
            pass
        except LoomError:
            yield {self.state: markup.message("Nothing was judged.", "refused"), **self.buttons(going=False)}
            raise
        yield self._ended(token, run)

    def _ended(self, token: str, run: ScoringJob) -> dict[Any, Any]:
        """What a judging that is at its end left, by whatever way."""
        try:
            run.job.result()
        except LoomError as error:
            return {self.filled: True, self.state: markup.message(str(error)), **self.buttons(going=False)}
        return {self.filled: True, **self.results(self.shared.workspace(token), run), **self.buttons(going=False)}

    def results(self, workspace: Workspace, run: ScoringJob) -> dict[Any, Any]:
        """The finished table, the small multiples, and the files."""
        rows = list(run.rows)
        opened = [(f"{row.entry.name} ({row.entry.kind})", i) for i, row in enumerate(rows) if row.entry.recipe]
        files = _files(workspace, run.board) if rows else ("", "")
        return {
            self.state: _summary(run),
            self.table: table.table(rows),
            self.plot: gr.update(value=table.multiples(rows), visible=True) if rows else gr.update(visible=False),
            self.bar: gr.update(visible=bool(rows)),
            self.open: gr.update(choices=opened, value=None),
            self.csv: files[0] or None,
            self.json: files[1] or None,
        }

    def buttons(self, *, going: bool) -> dict[Any, Any]:
        """Which of the two buttons does something."""
        return {self.judge: gr.update(interactive=not going), self.halt: gr.update(interactive=going)}


ROOM = Room(
    id="judge",
    title="Scoreboard",
    summary="Judge merges of the open adapters beside the base, each source and their controls.",
    docs="learning.md",
    panel=ScoringPanel,
)


def learned_in(session: Session) -> Result | None:
    """The result of the visitor's learning run, while it is what the workspace holds."""
    run = session.runs.get(LEARNING)
    result = run.result if run is not None else None
    return result if result is not None and result.recipe.digest() == session.workspace.recipe.digest() else None


def _progress(run: ScoringJob) -> str:
    of = f"Row {run.done} of {run.total}: " if run.total else ""
    return markup.message(f"{of}{run.status}…", "busy")


def _summary(run: ScoringJob) -> str:
    if not run.rows:
        return markup.message("Cancelled before the first row.")
    word = "Cancelled" if run.stopped.is_set() else "Done"
    text = f"{word}: {len(run.rows)} rows. Every one of them opens as a recipe, except what was trained or drawn."
    if run.question.learned is not None:
        return markup.message(f"{text} The learned row was judged on questions it never saw.", "good")
    if run.question.current and any(source.modules for source in run.question.current.sources):
        text += " The desk's weights by module come from elsewhere: learn them here, and their controls come with them."
    return markup.message(text, "good")


def _files(workspace: Workspace, found: Board) -> tuple[str, str]:
    """The rows as files to download."""
    paths: tuple[Path, Path] = (workspace.exports / "scoreboard.csv", workspace.exports / "scoreboard.json")
    for path, text in zip(paths, (found.to_csv(), found.to_json()), strict=True):
        write_atomic(path, text.encode())
    return str(paths[0]), str(paths[1])
