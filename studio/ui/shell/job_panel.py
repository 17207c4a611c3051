"""What the rooms that train something have in common: a run a visitor, shown as it goes, stopped, taken up again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import gradio as gr

from studio.core.errors import Cancelled, LoomError
from studio.session.jobs import Job
from studio.session.runs import Going, Kind
from studio.ui.shell import markup
from studio.ui.shell.panel import Shared, shows_errors, shows_errors_while

_PAUSE = 0.5  # seconds between two pictures of a run


class Resumable(Going, Protocol):
    """A run that can be gone on with after it was stopped."""

    job: Job

    @property
    def can_resume(self) -> bool:
        """Whether it was stopped before its end."""

    def again(self) -> Self:
        """The rest of a stopped run, begun."""


Work = TypeVar("Work", bound=Resumable)


class JobPanel(Generic[Work]):
    """Shows a visitor's run; a room adds what it looks like (`picture`) and what becomes of it (`finished`)."""

    first: ClassVar[str]
    """What to do before there is a run to go on with."""
    run_kind: Kind[Work]
    shared: Shared
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

    def run(self, token: str) -> Work | None:
        """The visitor's run, if there is one."""
        return self.shared.session(token).runs.get(self.run_kind)

    @shows_errors_while
    def on_resume(self, token: str) -> Iterator[dict[Any, Any]]:
        """Take a stopped run up again."""
        yield from self.begin(token, partial(self._resumed, token))

    @shows_errors
    def on_stop(self, token: str) -> Any:
        """Stop at the next step; what was learned so far is kept."""
        run = self.run(token)
        if run is not None:
            run.cancel()
        return gr.update(interactive=False)

    def begin(self, token: str, make: Callable[[], Work]) -> Iterator[dict[Any, Any]]:
        """Make a run, keep it as the visitor's, and show it; raises `LoomError` while the former goes on."""
        yield from self.follow(token, self.shared.session(token).runs.begin(self.run_kind, make))

    def _resumed(self, token: str) -> Work:
        former = self.run(token)
        if former is None:
            raise LoomError("There is nothing to resume", next=self.first)
        return former.again()

    def reopened(self, token: str, is_filled: bool) -> Iterator[dict[Any, Any]]:
        """The tab was opened: the run as it goes on, or on a fresh page what it left."""
        run = self.run(token)
        if run is not None and run.is_going:
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
