"""In the room Route: the trained router beside all others, row by row, on questions that none was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from studio.core.errors import Cancelled
from studio.ui.route import markup as router_markup
from studio.ui.route.job import COMPARISON, ROUTING, comparison
from studio.ui.shell import markup
from studio.ui.shell.fields import whole
from studio.ui.shell.panel import EDIT, PRIVATE, Shared, shows_errors, shows_errors_while

_PAUSE = 0.5  # seconds between two pictures of a comparison


class ComparisonPart:
    """Starts a comparison of the visitor's last run, shows it and stops it."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
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
        runs = self.shared.session(token).runs
        asked = whole("Questions", count, 2, 200)
        work = runs.begin(COMPARISON, lambda: comparison(runs.get(ROUTING), asked))
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
        work = self.shared.session(token).runs.get(COMPARISON)
        if work is not None:
            work.cancel()
        return gr.update(interactive=False)
