"""What the rooms that train something have in common: a run a visitor, shown as it goes, stopped, taken up again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import gradio as gr

from studio.core.errors import Cancelled, LoomError
from studio.ui.shell import markup
from studio.ui.shell.panel import Job, LatestJob, shows_errors, shows_errors_while

_PAUSE = 0.5  # seconds between two pictures of a run


class Run(Protocol):
    """Work on a thread that can be stopped and gone on with."""

    job: Job
    stopped: Any

    @property
    def can_resume(self) -> bool:
        """Whether it was stopped before its end."""

    def again(self) -> Self:
        """The rest of a stopped run, begun."""


Work = TypeVar("Work", bound=Run)


class JobPanel(Generic[Work]):
    """Keeps the visitors' runs; a room adds what a run looks like (`picture`) and what becomes of it (`finished`)."""

    first: ClassVar[str]
    """What to do before there is a run to go on with."""
    runs: LatestJob[Work]
    state: gr.HTML
    filled: gr.State
    """Whether the page shows the visitor's run; a page that was just opened does not."""
    start: gr.Button
    halt: gr.Button
    more: gr.Button

    def picture(self, run: Work) -> dict[Any, Any]:
        """What a run looks like now."""
        raise NotImplementedError

    def finished(self, token: str, run: Work) -> dict[Any, Any]:
        """What a run that ended shows and leaves behind."""
        raise NotImplementedError

    def left(self, token: str, run: Work) -> dict[Any, Any]:
        """What a run that ended says to a page that is opened again; perhaps nobody saw it end."""
        return self.finished(token, run)

    @shows_errors_while
    def on_resume(self, token: str) -> Iterator[dict[Any, Any]]:
        """Take a stopped run up again."""
        yield from self.begin(token, partial(self._resumed, token))

    @shows_errors
    def on_stop(self, token: str) -> Any:
        """Stop at the next step; what was learned so far is kept."""
        run = self.runs.get(token)
        if run is not None:
            run.stopped.set()
        return gr.update(interactive=False)

    def begin(self, token: str, make: Callable[[], Work]) -> Iterator[dict[Any, Any]]:
        """Make a run, keep it as the visitor's, and show it; raises `LoomError` while the former goes on."""
        with self.runs.beginning(token):
            former = self.runs.get(token)
            if former is not None and not former.job.wait(0):
                raise LoomError("A run is under way", next="stop it first")
            run = make()
            self.runs.put(token, run)
        yield from self.follow(token, run)

    def _resumed(self, token: str) -> Work:
        former = self.runs.get(token)
        if former is None:
            raise LoomError("There is nothing to go on with", next=self.first)
        return former.again()

    def reopened(self, token: str, is_filled: bool) -> Iterator[dict[Any, Any]]:
        """The tab was opened: the run as it goes on, or on a fresh page what it left."""
        run = self.runs.get(token)
        if run is not None and not run.job.wait(0):
            yield from self.follow(token, run)
        elif run is not None and not is_filled:
            yield {self.filled: True, **self.ended(token, run)}

    def ended(self, token: str, run: Work) -> dict[Any, Any]:
        """A run that is at its end, by whatever way."""
        try:
            run.job.result()
        except LoomError as error:
            return {self.state: markup.message(str(error)), **self.buttons(run, going=False)}
        return {**self.picture(run), **self.buttons(run, going=False), **self.left(token, run)}

    def follow(self, token: str, run: Work) -> Iterator[dict[Any, Any]]:
        """A run as it goes on, and what became of it."""
        yield {self.filled: True, **self.picture(run), **self.buttons(run, going=True)}
        while not run.job.wait(_PAUSE):
            yield self.picture(run)
        try:
            run.job.result()
        except Cancelled:
            yield self.ended(token, run)
            return
        except LoomError:
            yield {self.state: markup.message("Nothing was learned.", "refused"), **self.buttons(run, going=False)}
            raise
        yield {**self.picture(run), **self.buttons(run, going=False), **self.finished(token, run)}

    def buttons(self, run: Work, *, going: bool) -> dict[Any, Any]:
        """Which of the three buttons do something."""
        return {
            self.start: gr.update(interactive=not going),
            self.halt: gr.update(interactive=going),
            self.more: gr.update(interactive=not going and run.can_resume),
        }
