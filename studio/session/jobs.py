"""Work on threads of its own: how far it is, how it is stopped, and room for so much of it at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from studio.core.errors import Cancelled

OnStep = Callable[[int, int, str], None]
WAITING = "Waiting for a free place: two runs go on already, yours or others'"
_GLANCE = 0.1  # seconds between two looks whether a run that waits was stopped


class Job:
    """Work on a thread of its own, so that the page can tell how far it is."""

    def __init__(self, work: Callable[[OnStep], Any]) -> None:
        self.progress = (0, 0, "")
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether the work is done, after waiting at most so long."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> Any:
        """What the work returned; its error is raised here."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self, work: Callable[[OnStep], Any]) -> None:
        try:
            self._result = work(self._step)
        except BaseException as error:
            self._error = error

    def _step(self, done: int, total: int, what: str) -> None:
        self.progress = (done, total, what)


class Run:
    """A job that can be stopped. What derives from it sets `stopped`, then begins `job`, whose work asks `stopped`."""

    stopped: threading.Event
    job: Job

    @property
    def is_going(self) -> bool:
        """Whether it is not at its end yet."""
        return not self.job.wait(0)

    def cancel(self) -> None:
        """Have it end at its next step; returns at once."""
        self.stopped.set()


class Places:
    """Room for so many runs at once, of all visitors: the others wait their turn, or until they are stopped."""

    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(count)

    @contextmanager
    def taken(self, stopped: threading.Event) -> Iterator[None]:
        """Hold a place, once one is free; raises `Cancelled` for a run that is stopped before it began."""
        while not self._free.acquire(timeout=_GLANCE):
            _go_on(stopped)
        try:
            _go_on(stopped)
            yield
        finally:
            self._free.release()


def _go_on(stopped: threading.Event) -> None:
    if stopped.is_set():
        raise Cancelled("The run was stopped before it began")
