"""What one visitor has on the table: pictures, what the model saw of them, the sliders. Frozen; changes replace it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

SLIDERS = 32  # as many as released bases have adapters; those of smaller ones are hidden
Picture = Image.Image


@dataclass(frozen=True, slots=True, eq=False)
class Other:
    """Another analogy with the same b: what the model saw of it, and the mix (layers, N) that it asks for."""

    seen: Any
    mix: Any


@dataclass(frozen=True, slots=True, eq=False)
class AnalogySession:
    """One visitor's analogy; every change is a new version.

    `task` is the world's edit that the pictures show, if one does. `model` names what draws: the embedded model, or one
    that was opened and is told `prompting`. `seen` is what it saw of the pictures, None while one is missing. `other`
    is the far end of the way between two.
    """

    pictures: tuple[Picture | None, Picture | None, Picture | None] = (None, None, None)
    truth: Picture | None = None
    task: tuple[str, ...] = ()
    model: str = ""
    prompting: Any = None
    seen: Any = None
    other: Other | None = None
    gains: tuple[float, ...] = (1.0,) * SLIDERS
    renormalise: bool = False
    temperature: float = 1.0
    strength: float = 1.0
    steps: int = 2
    seed: int = 0
    t: float = 0.0
    version: int = 0


@dataclass(eq=False)
class AnalogySessions:
    """All visitors' analogies by token, the least used forgotten."""

    capacity: int = 200
    _kept: OrderedDict[str, AnalogySession] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def get(self, token: str) -> AnalogySession:
        """The visitor's session, a fresh one for a new visitor."""
        with self._lock:
            return self._kept.get(token, AnalogySession())

    def change(self, token: str, **fields: Any) -> AnalogySession:
        """Replace some fields; every change is a new version."""
        with self._lock:
            now = self._kept.pop(token, AnalogySession())
            self._kept[token] = made = replace(now, **fields, version=now.version + 1)
            while len(self._kept) > self.capacity:
                self._kept.popitem(last=False)
            return made
