"""The room Route: a router over the open adapters, trained before the visitor's eyes, that then writes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from studio.core.errors import LoomError
from studio.routing.answer import Writing, write
from studio.routing.ess import collapse
from studio.routing.kinds import kind_by_id, trainable
from studio.routing.measures import Measures
from studio.routing.router import BASE, load_router
from studio.session.workspace import Workspace
from studio.text.decoding import Decoding
from studio.text.skills import SKILLS
from studio.ui.compose.learn.job import open_base
from studio.ui.route import markup as router_markup
from studio.ui.route.comparison import ComparisonPart
from studio.ui.route.form import RouteForm
from studio.ui.route.job import ROUTER, ROUTING, Ready, RouteRequest, Routing, choices, fitting, labelled, opened
from studio.ui.shell import markup, task_choices
from studio.ui.shell.fields import number, texts, whole
from studio.ui.shell.forms import submits
from studio.ui.shell.job_panel import JobPanel
from studio.ui.shell.panel import EDIT, PRIVATE, Shared, shows_errors, shows_errors_while
from studio.ui.shell.plots import GREY, PALETTE
from studio.ui.shell.room import Room

_DRAWS = 50_000
_READS: Mapping[str, str] = {
    "embedding": "the tokens' embeddings",
    "hidden": "the base's last hidden states",
    "layer": "each layer's own input: a router for each layer",
}
_GRAINS: Mapping[str, str] = {"sequence": "one choice a prompt", "token": "one choice a token"}
_FIRST = (
    "Train a router: it learns which of the desk's adapters a prompt asks for, and answers with them",
    (
        "ReMix draws k adapters for each question and learns from which draws did well; the adapters stay as they are. "
        "With the embedded skills it takes a minute or two on two cores.",
        "You will see how many adapters really take part (ESS), whether they are the right ones, and how the load is "
        "shared, step by step.",
        "Then it writes: choose a question below Train, and every answer says who gave it. Beside others judges it "
        "against softmax routers, Arrow, X-LoRA and the best choice there is.",
    ),
)


class RoutingPanel(JobPanel[Routing]):
    """Chooses tasks and a router, shows the run, saves and opens routers, and lets one write."""

    first = "train first"
    run_kind = ROUTING

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.filled = gr.State(False)
        with gr.Row():
            with gr.Column(scale=4, min_width=320, elem_id="routing"):
                self._build_choice()
                self._build_writing()
            with gr.Column(scale=7, min_width=320, elem_id="routed"), gr.Tabs():
                with gr.Tab("This router", elem_classes="pane"):
                    self.state = gr.HTML(markup.first_view(*_FIRST), elem_id="route-state")
                    self.figures = gr.HTML(elem_id="route-figures")
                    self.plots = gr.HTML(elem_id="route-plots")
                    self.shares = gr.HTML(elem_id="route-shares")
                with gr.Tab("Beside others", elem_classes="pane"):
                    self.beside = ComparisonPart(shared)
                with gr.Tab("Why a softmax collapses", elem_classes="pane"):
                    self._build_collapse()

    def _build_choice(self) -> None:
        with gr.Row():
            self.tasks = gr.Dropdown(
                [], multiselect=True, label="Tasks", info="What prompts will ask for.", elem_id="route-tasks", scale=3
            )
            self.upload = gr.UploadButton(
                "Your own (JSONL)", file_types=[".jsonl", ".json"], size="sm", scale=1, elem_id="route-own"
            )
        self.kind = gr.Dropdown(
            [(kind.label, id) for id, kind in trainable().items()], value="remix", label="Router", elem_id="route-kind"
        )
        with gr.Row():
            self.k = gr.Number(2, label="k, adapters a choice", precision=0, min_width=100, elem_id="route-k")
            self.count = gr.Number(
                20,
                label="Items of each task",
                precision=0,
                minimum=2,
                maximum=200,
                min_width=100,
                elem_id="route-count",
            )
        with gr.Row():
            self.start = gr.Button("Train", variant="primary", size="sm", min_width=70, elem_id="route-train")
            self.halt = gr.Button("Stop", size="sm", min_width=60, interactive=False, elem_id="route-stop")
            self.more = gr.Button("Resume", size="sm", min_width=60, interactive=False, elem_id="route-resume")
        with gr.Accordion("Settings: granularity, features, ReMix's own, steps", open=False):
            self._build_settings()

    def _build_settings(self) -> None:
        with gr.Row():
            self.grain = gr.Dropdown([(t, id) for id, t in _GRAINS.items()], value="sequence", label="Granularity")
            self.reads = gr.Dropdown([(t, id) for id, t in _READS.items()], value="embedding", label="It reads")
        self.with_base = gr.Checkbox(True, label="The bare base is a choice", info="So one skill may be enough.")
        with gr.Row():
            self.samples = gr.Number(4, label="M", info="draws an item", precision=0, min_width=90)
            self.entropy = gr.Number(0.01, label="Entropy", info="bonus", min_width=90)
            self.omega = gr.Number(1.0, label="ω", info="weight when chosen", min_width=90)
        with gr.Row():
            self.rate = gr.Number(0.1, label="Rate", min_width=70)
            self.steps = gr.Number(100, label="Steps", precision=0, min_width=70, elem_id="route-steps")
            self.batch = gr.Number(8, label="Batch", precision=0, min_width=70)
            self.seed = gr.Number(0, label="Seed", precision=0, min_width=70)

    def _build_writing(self) -> None:
        with gr.Row():
            self.open = gr.UploadButton("Open a router", file_types=[".safetensors"], size="sm", elem_id="route-open")
            self.download = gr.DownloadButton("Save this router", visible=False, size="sm", elem_id="route-save")
        self.prompt = gr.Textbox(label="Prompt for the router", lines=3, elem_id="route-prompt")
        with gr.Row():
            self.pick = gr.Dropdown([], label="Or a question never trained on", elem_id="route-pick", scale=3)
            self.write = gr.Button("Write", variant="primary", size="sm", min_width=60, elem_id="route-write")
        self.written = gr.HighlightedText(
            label="Who answered", combine_adjacent=True, show_legend=True, elem_id="route-written"
        )

    def _build_collapse(self) -> None:
        gr.Markdown(
            "A fresh softmax router scores adapters by random numbers. How large the scores are, σ‖x‖, decides "
            "how many adapters really take part (ESS), before anything is learned."
        )
        with gr.Row():
            self.scale = gr.Slider(-1, 6, 5, step=0.25, label="Logit scale σ‖x‖, power of 2", elem_id="route-scale")
            self.choices = gr.Slider(2, 32, 8, step=1, label="Adapters", elem_id="route-n")
        self.collapse = gr.HTML(router_markup.collapse(collapse(32.0, draws=_DRAWS)), elem_id="route-collapse")

    # Listening -------------------------------------------------------------------------------------------------------

    def wire(self, tab: gr.Tab) -> None:
        """Connect the listeners; tasks are listed, and a run that goes on is shown, when `tab` is opened."""
        token = self.shared.token
        shown = [self.state, self.figures, self.plots, self.shares, self.start, self.halt, self.more, self.download]
        shown.append(self.filled)
        live: dict[str, Any] = {**PRIVATE, "show_progress": "hidden", "concurrency_limit": None}
        tab.select(self.on_open, [token, self.tasks, self.filled], [self.tasks, self.pick, *shown], **live)
        self.upload.upload(self.on_upload, [token, self.upload, self.tasks], self.tasks, **PRIVATE)
        self.start.click(**submits(self.on_train, RouteForm, self, token), outputs=shown, **live)
        self.more.click(self.on_resume, [token], shown, **live)
        self.halt.click(self.on_stop, [token], self.halt, **EDIT)
        self.beside.wire()
        self.open.upload(self.on_router, [token, self.open], shown, **PRIVATE)
        self.pick.input(self.on_pick, [self.pick], self.prompt, **EDIT)
        for trigger in (self.write.click, self.prompt.submit):
            trigger(self.on_write, [token, self.prompt], self.written, concurrency_id="text", **live)
        for slider in (self.scale, self.choices):
            slider.input(self.on_scale, [self.scale, self.choices], self.collapse, **EDIT)

    @shows_errors_while
    def on_open(self, token: str, chosen: Any, is_filled: bool = False) -> Iterator[dict[Any, Any]]:
        """The tab was opened: what the open adapters can be asked, and the run if one goes on."""
        workspace = self.shared.workspace(token)
        listed = choices(workspace)
        kept = [task for task in texts(chosen) if task in {value for _, value in listed}]
        questions = [
            (f"{SKILLS[name].title}: {_short(SKILLS[name].example.prompt)}", name) for name in fitting(workspace)
        ]
        is_new = self.run(token) is None and self.ready(token) is None
        example = task_choices.example(next(iter(kept or fitting(workspace)), None))
        first = {self.state: markup.first_view(*_FIRST, *example)} if is_new else {}
        yield {
            self.tasks: gr.update(choices=listed, value=kept or fitting(workspace)),
            self.pick: gr.update(choices=questions, value=None),
            **first,
        }
        yield from self.reopened(token, is_filled)

    @shows_errors
    def on_upload(self, token: str, file: str | None, chosen: Any) -> Any:
        """A visitor's own questions and answers."""
        workspace = self.shared.workspace(token)
        if not file:
            return {}
        value = task_choices.receive(workspace, file)
        return gr.update(choices=choices(workspace), value=[*texts(chosen), value])

    @shows_errors_while
    def on_train(self, token: str, form: RouteForm) -> Iterator[dict[Any, Any]]:
        """Begin a run and show it."""
        yield from self.begin(token, partial(self._ordered, self.shared.workspace(token), form))

    def _ordered(self, workspace: Workspace, form: RouteForm) -> Routing:
        """The run that the controls spell."""
        if len(workspace.recipe.sources) < 2:
            raise LoomError("There is nothing to choose", "a router needs two adapters", "add some, or open a preset")
        shape, settings = form.shape(), form.settings()
        items = labelled(workspace, texts(form.tasks), whole("Items", form.count, 2, 200), shape.seed, shape.k)
        sessions = self.shared.sessions
        opening = partial(open_base, sessions, workspace)
        return Routing(workspace.adapters, sessions.places, opening, RouteRequest(items, shape, settings))

    def finished(self, token: str, run: Routing) -> dict[Any, Any]:
        """The router writes from now on, and can be saved."""
        if run.file is None:
            self.keep(token, run)
        return {self.state: _told(run), self.download: gr.update(value=str(run.file), visible=True)}

    def keep(self, token: str, run: Routing) -> None:
        """The trained router becomes the one that writes; as a file it can be saved."""
        assert run.trained is not None
        folder = Path(tempfile.mkdtemp(prefix="router-", dir=self.shared.workspace(token).exports))
        run.file = run.trained.router.save(folder / "router.safetensors")
        self.shared.session(token).runs.put(ROUTER, Ready(run.trained.router, run.adapters, "trained here"))

    def picture(self, run: Routing) -> dict[Any, Any]:
        """What a run looks like now."""
        history, shape = list(run.history), run.request.shape
        busy = {self.state: markup.message(f"{run.status}…", "busy")}
        if not history:
            return {**busy, self.figures: "", self.plots: "", self.shares: ""}
        last = history[-1][1] if run.is_going else _best(history)  # at its end the router is that of the best step
        steps = run.request.settings.schedule.steps
        return {
            **busy,
            self.figures: router_markup.figures(last, shape.k),
            self.plots: router_markup.progress(history, steps, len(run.names), kind_by_id(shape.kind)),
            self.shares: router_markup.shares(last, run.names, run.request.tasks),
        }

    def ready(self, token: str) -> Ready | None:
        """The visitor's router that can write, if there is one."""
        return self.shared.session(token).runs.get(ROUTER)

    # Writing ---------------------------------------------------------------------------------------------------------

    @shows_errors
    def on_router(self, token: str, file: str | None) -> dict[Any, Any]:
        """A router from a file, over the adapters in the workspace."""
        workspace = self.shared.workspace(token)
        if not file:
            return {}
        found = opened(load_router(Path(file)), workspace, Path(file).name)
        self.shared.session(token).runs.put(ROUTER, found)
        router = found.router
        status = (
            f"{found.title}: {router.rule.label}; k = {router.k} of {len(router.names)}, "
            f"{_GRAINS[router.granularity]}. It can write; figures come with training."
        )
        nothing: dict[Any, Any] = dict.fromkeys((self.figures, self.plots, self.shares), "")
        return {self.state: markup.message(status, "good"), **nothing, self.download: gr.update(visible=False)}

    @shows_errors
    def on_pick(self, name: str | None) -> Any:
        """A question of a skill."""
        return SKILLS[name].example.prompt if name is not None and name in SKILLS else {}

    @shows_errors_while
    def on_write(self, token: str, prompt: str | None) -> Iterator[Any]:
        """Let the router continue the prompt, and colour each token by who answered it."""
        workspace, ready = self.shared.workspace(token), self.ready(token)
        if ready is None:
            raise LoomError("There is no router yet", next="train one, or open one from a file")
        if not (prompt or "").strip():
            raise LoomError("The prompt is empty", next="type one, or pick a question")
        base = open_base(self.shared.sessions, workspace)
        for found in write(base, ready.adapters, ready.router, prompt or "", Decoding(max_tokens=48)):
            yield _coloured(found)

    @shows_errors
    def on_scale(self, power: Any, n: Any) -> str:
        """Another logit scale: draw fresh routers."""
        found = collapse(2.0 ** number("The scale", power, -8, 8), whole("Adapters", n, 2, 32), draws=_DRAWS)
        return router_markup.collapse(found)


ROOM = Room(
    id="route",
    title="Route",
    summary="Train a router that chooses among the adapters for each prompt or token, and let it write.",
    docs="routing.md",
    panel=RoutingPanel,
)


def _coloured(found: Writing) -> Any:
    """The text by who answered: one colour for each set of adapters, grey for the bare base."""
    labels = found.labels()
    sets = [label for label in dict.fromkeys(labels) if label != BASE]
    colours = {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(sets)} | {BASE: GREY}
    value = [(piece.text, label) for piece, label in zip(found.pieces, labels, strict=True)]
    return gr.update(value=value, color_map=colours)


def _best(history: Sequence[tuple[int, Measures]]) -> Measures:
    """The measures of the step that is kept."""
    return min((found for _, found in history), key=lambda found: found.loss)


def _told(run: Routing) -> str:
    """What a finished run means."""
    done = run.trained
    assert done is not None
    first, best = done.history[0][1], _best(done.history)
    word = "Stopped" if run.can_resume else "Done"
    right = "" if best.found is None else f" It makes the right choice for {best.found:.0%} of them."
    return markup.message(
        f"{word} after {done.state.step} steps: loss {first.loss:.3f} → {best.loss:.3f} on questions held back.{right} "
        "Give it a prompt: the colours say who answered.",
        "good",
    )


def _short(prompt: str) -> str:
    words = prompt.removeprefix("Question: ").replace("\n", " ")
    return words if len(words) <= 60 else f"{words[:59]}…"
