"""Results kept in memory while they are small, and in one unnamed temporary file beyond that."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import partial
from typing import IO

import numpy as np

from studio.core.tensors import Array


@dataclass(slots=True, eq=False)
class Spill:
    """Holds arrays until nobody wants them; the file disappears with the last reader."""

    budget: int
    _held: int = 0
    _file: IO[bytes] | None = field(default=None)

    def put(self, a: Array, b: Array) -> Pairing:
        """Keep a pair, and return what loads it."""
        size = a.nbytes + b.nbytes
        if self._held + size <= self.budget:
            self._held += size
            return Pairing(partial(np.asarray, np.ascontiguousarray(a)), partial(np.asarray, np.ascontiguousarray(b)))
        return Pairing(self._spill(a), self._spill(b))

    def _spill(self, array: Array) -> partial[Array]:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="loom-")  # noqa: SIM115 - lives as long as its readers
        offset = self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(array, np.float32).data)
        self._file.flush()
        return partial(_read, self._file, offset, array.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Pairing:
    """Loads a pair, like any other loader of a module."""

    a: partial[Array]
    b: partial[Array]

    def __call__(self) -> tuple[Array, Array]:
        """A and B."""
        return self.a(), self.b()


def _read(file: IO[bytes], offset: int, shape: tuple[int, ...]) -> Array:
    # A mapping reads by itself, so that two threads never share a file position. Copy on write: nobody alters the
    # spill file.
    return np.memmap(file, np.float32, "c", offset, shape)
