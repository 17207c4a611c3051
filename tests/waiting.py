"""How tests wait: for what happens, never for how fast. The limit only ends a test that would hang for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

LIMIT = 600.0  # seconds: what takes half a second on an idle machine may take a thousand times that on a busy one


def wait_until(happened: Callable[[], bool]) -> None:
    """Ask again and again until it is so."""
    pause = threading.Event()
    for _ in range(int(LIMIT / 0.05)):
        if happened():
            return
        pause.wait(0.05)
    raise AssertionError("it did not happen in time")


class Gate:
    """Holds work on another thread at one of its steps until it is opened, so that a test sees it under way."""

    def __init__(self, count: int = 1) -> None:
        self._left, self._reached, self._open = count, threading.Event(), threading.Event()

    @property
    def is_reached(self) -> bool:
        """Whether the work stands before the gate, or has passed it."""
        return self._reached.is_set()

    def step(self) -> None:
        """Called by the work: the `count`-th call, and every later one, waits until the gate is open."""
        self._left -= 1
        if self._left <= 0:
            self._reached.set()
            assert self._open.wait(LIMIT), "nobody opened the gate"

    def open(self) -> None:
        """Let the work go on, for good."""
        self._open.set()

    def behind(self, patch: pytest.MonkeyPatch, owner: type, method: str) -> Gate:
        """Put the gate behind a method that the work calls at each step."""
        step = getattr(owner, method)

        def held(*args: object, **kwargs: object) -> object:
            found = step(*args, **kwargs)
            self.step()
            return found

        patch.setattr(owner, method, held)
        return self
