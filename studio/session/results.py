"""What was made of a workspace, one thing of each kind, kept while what it was made of stays the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from studio.core.errors import Cancelled

Made = TypeVar("Made")


class Results:
    """Kept results by kind. Safe to call from several threads.

    `_lock` guards the dictionaries and is never held while something is made; a lock for each kind makes those who ask
    for it at the same time wait for one making, so it must not be asked for by what makes it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}
        self._held: dict[str, tuple[Hashable, Any]] = {}
        self._closed = False

    def kept(self, what: str, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made for this key, or what `make` gives now; raises `Cancelled` once these results are closed."""
        with self._lock:
            making = self._making.setdefault(what, threading.Lock())
        with making:
            held = self._of(what)
            if held is not None and held[0] == key:
                found: Made = held[1]
                return found
            made = make()
            with self._lock:
                if not self._closed:
                    self._held[what] = (key, made)
            return made

    def at_hand(self, what: str, key: Hashable) -> Any | None:
        """What is kept for this key, if it is there; waits for no making."""
        with self._lock:
            held = self._held.get(what)
        return held[1] if held is not None and held[0] == key else None

    def close(self) -> None:
        """Let go of everything, and keep nothing from now on."""
        with self._lock:
            self._closed = True
            self._held.clear()

    def _of(self, what: str) -> tuple[Hashable, Any] | None:
        with self._lock:
            if self._closed:
                raise Cancelled("This session has ended")
            return self._held.get(what)
