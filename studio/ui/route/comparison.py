"""In the room Route: the trained router beside all others, row by row, on questions that none was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from studio.core.errors import Cancelled, LoomError
from studio.ui.route import markup as router_markup
from studio.ui.route.job import Comparison, Routing, comparison
from studio.ui.shell import markup
from studio.ui.shell.fields import whole
from studio.ui.shell.panel import EDIT, PRIVATE, LatestJob, Shared, shows_errors, shows_errors_while

_PAUSE = 0.5  # seconds between two pictures of a comparison


class ComparisonPart:
    """Starts a comparison of the visitor's last run, shows it and stops it."""

    def __init__(self, shared: Shared, runs: LatestJob[Routing]) -> None:
        self.shared, self.runs = shared, runs
        self.comparisons: LatestJob[Comparison] = LatestJob(20)
        with gr.Row():
            self.judge = gr.Button("Judge it beside others", variant="primary", size="sm", elem_id="route-judge")
            self.enough = gr.Button("Stop", size="sm", min_width=60, interactive=False, elem_id="route-judge-stop")
            self.asked = gr.Number(10, label="Questions of each task", precision=0, elem_id="route-asked")
        self.judged = gr.HTML(
            markup.message(
                "Uniform, the oracle that has seen the answers, other routers trained alike, PEFT's Arrow and X-LoRA: "
                "all on the same questions, none of them trained on."
            ),
            elem_id="route-judged",
        )

    def wire(self) -> None:
        """Connect the listeners."""
        token, shown = self.shared.token, [self.judged, self.judge, self.enough]
        live: dict[str, Any] = {**PRIVATE, "show_progress": "hidden", "concurrency_limit": None}
        self.judge.click(self.on_judge, [token, self.asked], shown, **live)
        self.enough.click(self.on_enough, [token], self.enough, **EDIT)

    @shows_errors_while
    def on_judge(self, token: str, count: Any) -> Iterator[dict[Any, Any]]:
        """The trained router beside all others, row by row."""
        self.shared.workspace(token)
        former = self.comparisons.get(token)
        if former is not None and former.is_going:
            raise LoomError("A comparison is under way", next="stop it first")
        work = comparison(self.runs.get(token), whole("Questions", count, 2, 200))
        self.comparisons.put(token, work)
        going = {self.judge: gr.update(interactive=False), self.enough: gr.update(interactive=True)}
        done = {self.judge: gr.update(interactive=True), self.enough: gr.update(interactive=False)}
        yield {self.judged: markup.message(f"{work.status}…", "busy"), **going}
        while not work.job.wait(_PAUSE):
            table = router_markup.comparison(list(work.rows)) if work.rows else ""
            yield {self.judged: markup.message(f"{work.status}…", "busy") + table}
        yield {self.judged: router_markup.comparison(work.rows), **done}
        try:
            work.job.result()
        except Cancelled as error:
            yield {self.judged: markup.message(str(error)) + router_markup.comparison(work.rows)}

    @shows_errors
    def on_enough(self, token: str) -> Any:
        """Stop the comparison after the router that is at it; its rows stay."""
        work = self.comparisons.get(token)
        if work is not None:
            work.stopped.set()
        return gr.update(interactive=False)
