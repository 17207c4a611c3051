"""Learned weights: coefficients for the open adapters, learned while the visitor watches, and put into the recipe."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, get_args

import gradio as gr

from studio.core.errors import LoomError
from studio.learning.data import split
from studio.learning.learners import learner_by_id, learners
from studio.learning.registry import Selection
from studio.session.workspace import Workspace
from studio.ui.compose.learn import curves
from studio.ui.compose.learn.form import LearnForm
from studio.ui.compose.learn.job import LEARNING, Training, open_base
from studio.ui.shell import markup, task_choices
from studio.ui.shell.fields import text, whole
from studio.ui.shell.forms import submits
from studio.ui.shell.job_panel import JobPanel
from studio.ui.shell.panel import EDIT, PRIVATE, Shared, shows_errors, shows_errors_while
from studio.ui.shell.room import Room

_SHAPES = {
    "free": "free: any number, from 1",
    "softmax": "softmax: shares of 1",
    "leaky": "leaky: from 0, subtracting is damped",
    "squared": "squared: never below 0",
    "sigmoid": "sigmoid: between 0 and 1",
    "affine": "sigmoid, its height and offset learned too",
}
_INITS = {
    "constant": "all alike: the sum for free, the base for leaky",
    "normal": "drawn from N(0, 0.5²)",
    "uniform": "drawn between 0 and 1",
    "equal": "1/√N each",
    "target": "only the first adapter",
}
_GRAINS = {
    "global": "one for each adapter",
    "layer": "one a layer",
    "sublayer": "one for attention, one for MLP, a layer",
    "module": "one a module",
    "rank": "one a unit (rank)",
}


_FIRST = (
    "Learn how much of each adapter every module needs, from a few examples",
    (
        "The adapters stay as they are: one number is learned for each module and adapter. With the embedded skills it "
        "takes under a minute on two cores; Stop keeps the best so far, Go on takes it up again.",
        "You will see these numbers as a heat map while they are learned, and the loss below it.",
        "They go into the recipe on the desk. What Compose shows, writes and exports is the learned merge; Undo takes "
        "it back, the Scoreboard judges it.",
    ),
)


class LearningPanel(JobPanel[Training]):
    """Chooses examples and a learner, shows the run, writes the recipe."""

    first = "learn first"
    run_kind = LEARNING

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.filled = gr.State(False)
        with gr.Row():
            with gr.Column(scale=4, min_width=320, elem_id="learning"):
                self._build_choice()
            with gr.Column(scale=7, min_width=320, elem_id="learned"):
                self.state = gr.HTML(markup.first_view(*_FIRST), elem_id="learn-state")
                self.heat = gr.HTML(elem_id="learn-heat")
                self.curve = gr.HTML(elem_id="learn-curve")

    def _build_choice(self) -> None:
        listed = [(learner.label, id) for id, learner in learners().items()]
        self.learner = gr.Dropdown(listed, value="soup", label="Learner", elem_id="learner")
        with gr.Row():
            self.examples = gr.Dropdown(
                [], label="Examples", info="Questions with their right answers.", elem_id="examples", scale=3
            )
            self.upload = gr.UploadButton(
                "Your own (JSONL)", file_types=[".jsonl", ".json"], size="sm", scale=1, elem_id="own-examples"
            )
        self.count = gr.Slider(5, 200, 50, step=5, label="How many examples", elem_id="example-count")
        with gr.Row():
            self.start = gr.Button("Learn", variant="primary", size="sm", min_width=70, elem_id="learn")
            self.halt = gr.Button("Stop", size="sm", min_width=60, interactive=False, elem_id="learn-stop")
            self.more = gr.Button("Resume", size="sm", min_width=60, interactive=False, elem_id="learn-resume")
        with gr.Group(visible=False) as self.recycling:
            self.keep = gr.Slider(1, 16, 5, step=1, label="Adapters to select", elem_id="keep")
            self.by = gr.Dropdown([*get_args(Selection)], value="score", label="Select by", elem_id="select-by")
            self.pooled = gr.Checkbox(
                True,
                label="A target LoRA joins the pool",
                info="Trained first on the same examples, a minute or two; the paper's own setting.",
                elem_id="pool-target",
            )
        with gr.Accordion("Settings: shape, granularity, steps", open=False):
            self.shape = gr.Dropdown(
                [(text, id) for id, text in _SHAPES.items()], value="free", label="Coefficients", elem_id="shape"
            )
            self.grain = gr.Dropdown(
                [(text, id) for id, text in _GRAINS.items()], value="module", label="Granularity", elem_id="grain"
            )
            self.init = gr.Dropdown(
                [(text, id) for id, text in _INITS.items()], value="constant", label="Start", elem_id="init"
            )
            with gr.Row():
                self.rate = gr.Number(5e-2, label="Learning rate", elem_id="rate")
                self.steps = gr.Number(100, label="Steps", precision=0, elem_id="learn-steps")
            with gr.Row():
                self.batch = gr.Number(8, label="Batch", precision=0)
                self.l1 = gr.Number(0, label="L1", info="Pulls coefficients to 0.")
                self.seed = gr.Number(0, label="Seed", precision=0)

    # Listening -------------------------------------------------------------------------------------------------------

    def wire(self, tab: gr.Tab) -> None:
        """Connect the listeners; tasks are listed, and a run that goes on is shown, when `tab` is opened."""
        token = self.shared.token
        shown = [self.state, self.heat, self.curve, self.start, self.halt, self.more, self.filled]
        every = [*shown, *self.shared.controls()]
        live: dict[str, Any] = {**PRIVATE, "show_progress": "hidden", "concurrency_limit": None}
        tab.select(self.on_open, [token, self.examples, self.filled], [self.examples, *every], **live)
        used = [self.recycling, self.shape, self.grain, self.init, self.rate, self.steps, self.batch, self.l1]
        self.learner.input(self.on_learner, [self.learner], used, **EDIT)
        self.upload.upload(self.on_upload, [token, self.upload], self.examples, **PRIVATE)
        self.start.click(**submits(self.on_learn, LearnForm, self, token), outputs=every, **live)
        self.more.click(self.on_resume, [token], every, **live)
        self.halt.click(self.on_stop, [token], self.halt, **EDIT)

    @shows_errors_while
    def on_open(self, token: str, chosen: str | None, is_filled: bool = False) -> Iterator[dict[Any, Any]]:
        """The tab was opened: what there is to learn from, and the run if one goes on."""
        workspace = self.shared.workspace(token)
        listed = task_choices.choices(workspace, ("train",))
        fitting = task_choices.fitting(workspace)
        value = chosen if task_choices.fits(workspace, chosen) else f"{fitting}:train" if fitting else None
        run = self.run(token)
        first = {self.state: markup.first_view(*_FIRST, *task_choices.example(fitting))} if run is None else {}
        yield {self.examples: gr.update(choices=listed, value=value), **first}
        yield from self.reopened(token, is_filled)

    @shows_errors
    def on_learner(self, id: str) -> dict[Any, Any]:
        """Another learner: its own settings, and only the controls that change what it does."""
        learner = learner_by_id(id)
        settings, schedule = learner.settings, learner.settings.schedule
        own = {
            "parameterisation": (self.shape, settings.parameterisation),
            "granularity": (self.grain, settings.granularity),
            "init": (self.init, settings.init),
            "l1": (self.l1, settings.l1),
            "rate": (self.rate, schedule.rate),
            "batch": (self.batch, schedule.batch),
        }
        return {
            self.recycling: gr.update(visible=learner.select is not None),
            self.steps: gr.update(value=schedule.steps, label=f"{learner.step.capitalize()}s"),
            **{control: gr.update(value=now, interactive=name in learner.uses) for name, (control, now) in own.items()},
        }

    @shows_errors
    def on_upload(self, token: str, file: str | None) -> Any:
        """A visitor's own questions and answers."""
        workspace = self.shared.workspace(token)
        if not file:
            return {}
        value = task_choices.receive(workspace, file)
        return gr.update(choices=task_choices.choices(workspace, ("train",)), value=value)

    @shows_errors_while
    def on_learn(self, token: str, form: LearnForm) -> Iterator[dict[Any, Any]]:
        """Begin a run and show it."""
        yield from self.begin(token, partial(self._ordered, self.shared.workspace(token), form))

    def _ordered(self, workspace: Workspace, form: LearnForm) -> Training:
        """The run that the controls spell."""
        if not workspace.recipe.sources:
            raise LoomError("There is nothing to learn", "no adapter is on the desk", "add one, or start from a preset")
        request, examples = form.request(), text(form.examples)
        if not examples:
            raise LoomError("No examples are chosen", next="choose some, or upload a JSONL of prompts and answers")
        if request.target and len(workspace.recipe.sources) >= 16:
            raise LoomError(
                "The desk is full", "a target LoRA would be the 17th", "remove an adapter, or do without it"
            )
        items = task_choices.task(
            workspace, examples, whole("The number of examples", form.count, 1, 10_000), request.seed
        )
        if items.kind != "exact":
            raise LoomError(f"{items.name} has texts, no answers", next="give lines with a prompt and an answer")
        return Training(
            workspace,
            self.shared.sessions.places,
            partial(open_base, self.shared.sessions, workspace),
            split(items.items, seed=request.seed),
            request,
        )

    def picture(self, run: Training) -> dict[Any, Any]:
        """What a run looks like now."""
        losses, valid = list(run.losses), list(run.valid)
        heat = curves.heat_map(run.rows, run.names, run.coefficients) if run.coefficients is not None else ""
        return {
            self.state: markup.message(f"{run.status}…", "busy"),
            self.heat: heat,
            self.curve: curves.loss_curve(losses, valid, max(run.steps, 1)) if losses else "",
        }

    def finished(self, token: str, run: Training) -> dict[Any, Any]:
        """What was learned is in the workspace: say what it means, and set every control by it."""
        workspace = self.shared.workspace(token)
        return {**self.shared.refresh(workspace), **self.left(token, run)}

    def left(self, token: str, run: Training) -> dict[Any, Any]:
        """What was learned, in words."""
        return {self.state: _told(run, self.shared.workspace(token))}


ROOM = Room(
    id="learn",
    title="Learn",
    summary="Learn from a few examples how much of each adapter every module needs.",
    docs="learning.md",
    panel=LearningPanel,
)


def _told(run: Training, workspace: Workspace) -> str:
    """What a finished run means, in two sentences."""
    result = run.result
    if result is None:
        return markup.message("Nothing was learned.", "refused")
    state = result.learned.soup.state
    word = "Stopped" if run.can_resume else "Done"
    begun, first = state.valid[0]
    start = f"{first:.3f} → " if begun == 0 else ""  # a search has no start to measure
    loss = f"{word} after {state.step} steps: {run.request.learner.objective}: {start}{state.lowest:.3f}."
    if workspace.recipe.name == result.recipe.name:
        where = "It is on the desk as weights by module: preview and export follow, Undo brings the former back."
    else:
        where = "The desk holds other adapters by now: it waits among the named versions."
    return markup.message(
        f"{loss} {where} The Scoreboard judges it beside its controls, on questions it never saw.", "good"
    )
