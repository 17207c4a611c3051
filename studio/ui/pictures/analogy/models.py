"""The models that draw, opened once for all visitors: they tell nothing of anybody."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from studio.core.errors import LoomError
from studio.formats.containers.lorweb_file import find_lorweb
from studio.vision.analogist import Analogist
from studio.vision.export import OpenBasis
from studio.vision.pictures import to_picture
from studio.vision.pipeline import EMBEDDED, AnalogyModel, catalogue, load_embedded
from studio.vision.space import ready

OnStep = Callable[[int, int, str], None]
MAPPED = 4  # analogies of each transform on the map


@dataclass(frozen=True, eq=False)
class Opened:
    """A model, its basis, and a name for the visitor."""

    title: str
    model: Analogist
    basis: OpenBasis


@dataclass(frozen=True, eq=False)
class Mapped:
    """Many analogies by their mixes: transform and scene of each, and the mixes (n, layers, N)."""

    tasks: tuple[tuple[str, int], ...]
    mixes: np.ndarray[Any, np.dtype[np.float32]]


@dataclass(eq=False)
class Models:
    """The embedded model, loaded when first asked for, and whatever else was opened; the mixes of many analogies."""

    _opened: dict[str, Opened] = field(default_factory=dict)
    _mapped: Mapped | None = None

    def __post_init__(self) -> None:
        self._lock = threading.RLock()

    @property
    def is_there(self) -> bool:
        """Whether this copy of the studio holds the embedded model."""
        return (EMBEDDED / "lorweb").exists()

    @property
    def names(self) -> tuple[str, ...]:
        """The transforms that are offered as ready analogies."""
        return catalogue()

    def get(self, key: str = "") -> Opened:
        """An opened model by its key; the empty one is embedded, and the first caller loads it."""
        with self._lock:
            if key not in self._opened:
                if key:
                    raise LoomError("This model was closed", next="open it again, or go back to the embedded one")
                file = find_lorweb(EMBEDDED / "lorweb")
                model = load_embedded()
                self._opened[""] = Opened("embedded model", model, OpenBasis(model.basis, file))
            return self._opened[key]

    def embedded(self) -> AnalogyModel:
        """The embedded model itself, which also draws with ordinary LoRAs."""
        model = self.get().model
        assert isinstance(model, AnalogyModel)
        return model

    def load(self, on_step: OnStep | None = None) -> Opened:
        """The embedded model, as work of a `Job`; loading tells nothing, so `on_step` is never called."""
        return self.get()

    def keep(self, key: str, opened: Opened) -> None:
        """Keep an opened model; one beside the embedded one, since each is tens of gigabytes."""
        with self._lock:
            self._opened = {name: held for name, held in self._opened.items() if not name} | {key: opened}

    def mapped(self, on_step: OnStep | None = None) -> Mapped:
        """A few analogies of every transform in the catalogue, as the embedded model routes them; made once."""
        model = self.embedded()
        with self._lock:
            if self._mapped is None:
                tasks = tuple((name, scene) for name in self.names for scene in range(MAPPED))
                mixes = []
                for done, (name, scene) in enumerate(tasks):
                    found = ready((name,), scene)
                    seen = model.look(to_picture(found.a), to_picture(found.a2), to_picture(found.b))
                    mixes.append(model.route(seen).numpy())
                    if on_step is not None:
                        on_step(done + 1, len(tasks), name)
                self._mapped = Mapped(tasks, np.stack(mixes))
            return self._mapped
