"""What a visitor has under way or has finished, the last of each kind: learning, judging, routers, drawings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from studio.core.errors import Cancelled, LoomError

Work = TypeVar("Work")


@runtime_checkable
class Cancels(Protocol):
    """Work that can be told to end."""

    def cancel(self) -> None:
        """Have it end soon; returns at once."""


class Going(Cancels, Protocol):
    """Work that says whether it is at its end."""

    @property
    def is_going(self) -> bool:
        """Whether it is not at its end yet."""


Begun = TypeVar("Begun", bound=Going)


@dataclass(frozen=True)
class Kind(Generic[Work]):
    """A kind of work, by its name; a visitor has one of each. `noun` is what a message calls it."""

    name: str
    noun: str = "run"


class Runs:
    """One visitor's work by kind. Safe to call from several threads.

    `_lock` is never held while work is made or cancelled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Any] = {}
        self._beginning: set[str] = set()
        self._closed = False

    def get(self, kind: Kind[Work]) -> Work | None:
        """The work of a kind, if there is some."""
        with self._lock:
            found: Work | None = self._held.get(kind.name)
            return found

    def begin(self, kind: Kind[Begun], make: Callable[[], Begun]) -> Begun:
        """Make work and keep it; raises `LoomError` while the former goes on, or a second click asks for the same."""
        with self._begun_once(kind):
            former = self.get(kind)
            if former is not None and former.is_going:
                raise LoomError(f"A {kind.noun} is under way", next="stop it first")
            made = make()
            self.put(kind, made)
            return made

    def put(self, kind: Kind[Work], work: Work) -> None:
        """Keep work in place of the former, which is cancelled; work that comes after `close` is cancelled itself."""
        with self._lock:
            is_late = self._closed
            former = work if is_late else self._held.get(kind.name)
            if not is_late:
                self._held[kind.name] = work
        if isinstance(former, Cancels):
            former.cancel()
        if is_late:
            raise Cancelled("This session has ended")

    def close(self) -> None:
        """Cancel everything, let go of it, and keep nothing from now on."""
        with self._lock:
            self._closed = True
            works = list(self._held.values())
            self._held.clear()
        for work in works:
            if isinstance(work, Cancels):
                work.cancel()

    @contextmanager
    def _begun_once(self, kind: Kind[Any]) -> Iterator[None]:
        with self._lock:
            if kind.name in self._beginning:
                raise LoomError("This is being started already", next="wait a moment")
            self._beginning.add(kind.name)
        try:
            yield
        finally:
            with self._lock:
                self._beginning.discard(kind.name)
