"""Where units lie on the map: PCA until UMAP is there, kept by content so that nobody waits for a picture twice."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from studio.units import Units, drawn, layout_key, pca, umap_layout

OnStep = Callable[[int, int, str], None]
Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(eq=False)
class Layouts:
    """A bounded store of pictures, shared by all visitors: equal features give equal pictures, so it tells nothing."""

    capacity: int = 64
    _kept: OrderedDict[str, Floats] = field(default_factory=OrderedDict)
    _keys: WeakKeyDictionary[Units, str] = field(default_factory=WeakKeyDictionary)
    _first: WeakKeyDictionary[Units, Floats] = field(default_factory=WeakKeyDictionary)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._one = threading.Lock()

    def has(self, units: Units) -> bool:
        """Whether the UMAP picture is there."""
        return self._key(units) in self._kept

    def positions(self, units: Units) -> Floats:
        """The best picture there is, (n, 2), of the drawn rows."""
        key = self._key(units)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            if units not in self._first:
                self._first[units] = pca(_features(units))
            return self._first[units]

    def make(self, units: Units, on_step: OnStep | None = None) -> Floats:
        """The UMAP picture; one is computed at a time, it takes a core.

        `on_step` is never called: UMAP tells nothing.
        """
        key = self._key(units)
        with self._one:
            if key not in self._kept:
                placed = umap_layout(_features(units))
                with self._lock:
                    self._kept[key] = placed
                    while len(self._kept) > self.capacity:
                        self._kept.popitem(last=False)
            return self._kept[key]

    def _key(self, units: Units) -> str:
        """The name of the picture; made once, since hashing all features would be most of an edit's time."""
        if units not in self._keys:
            self._keys[units] = layout_key(_features(units))
        return self._keys[units]


def _features(units: Units) -> Floats:
    return units.features[drawn(units.table.energy)]
