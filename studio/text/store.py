"""Open bases, shared: each is loaded once, however many sessions ask, and the least used one makes room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future

from studio.text.bases import OnStep, TextBase, open_base

Key = tuple[str, str | None]


class BaseStore:
    """A bounded, thread-safe store of open bases, made by the app and handed to the sessions.

    A base that fell out stays alive as long as a preview holds it.
    """

    def __init__(self, capacity: int = 2) -> None:
        self._capacity = max(1, capacity)
        self._lock = threading.Lock()
        self._bases: OrderedDict[Key, Future[TextBase]] = OrderedDict()

    def get(self, source: str, revision: str | None = None, *, on_step: OnStep | None = None) -> TextBase:
        """The open base; the first caller loads it and others wait. A failure is raised to all and forgotten."""
        key = (source, revision)
        with self._lock:
            future = self._bases.get(key)
            is_mine = future is None
            if future is None:
                future = self._bases[key] = Future()
            self._bases.move_to_end(key)
            while len(self._bases) > self._capacity:
                self._bases.popitem(last=False)
        if is_mine:
            self._load(key, future, on_step)
        return future.result()

    def _load(self, key: Key, future: Future[TextBase], on_step: OnStep | None) -> None:
        try:
            future.set_result(open_base(*key, on_step=on_step))
        except BaseException as error:
            with self._lock:
                if self._bases.get(key) is future:
                    del self._bases[key]
            future.set_exception(error)
