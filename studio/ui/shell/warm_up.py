"""The heavy packages are loaded in the background, while the page is used already."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class WarmUp:
    """Loads the heavy packages in the background and says what is still to come, so that the page is usable at once."""

    steps: tuple[tuple[str, Callable[[], object]], ...]
    _left: list[str] = field(default_factory=list)
    _failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._left = [name for name, _ in self.steps]
        self.done = threading.Event()

    def start(self) -> None:
        """Begin, on a daemon thread."""
        threading.Thread(target=self.run, name="warm-up", daemon=True).start()

    def run(self) -> None:
        """All steps in order; one that fails is named and the others still run."""
        for name, step in self.steps:
            try:
                step()
            except Exception:
                _LOG.exception("warming up %s failed", name)
                self._failed.append(name)
            self._left.remove(name)
        self.done.set()

    def has(self, name: str) -> bool:
        """Whether a step is behind us."""
        return name not in self._left

    def status(self) -> str:
        """What is still warming up, in a few words; empty when all is there."""
        parts = [f"Warming up: {', '.join(self._left)}…"] if self._left else []
        return " ".join(parts + [f"{name} did not load." for name in self._failed])
