"""A file as it was when it was opened: every later read is of that same file, or raises `Changed`.

What is guaranteed: size, modification and change time, inode and device of the file are compared before the first
byte of a read and again after its last. A file that was deleted, cut, replaced or written to since it was opened is
refused, also where that happened during the read; and since the values come by `read`, never by a mapping, a file that
is cut meanwhile ends the read and not the process. A file that is replaced by a rename during a read is read to its
old end, which is what was asked for.

What is not: a program that writes into the same file within one tick of the file system's clock of the write before,
the same number of bytes, shows no trace (Linux 6.13 and later give each change a time of its own; before, a tick is
4 ms at most). Nor does one that maps the file and writes to a page that it had changed before it was opened here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from studio.core.errors import Changed

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one state of a file from every other: bytes, nanoseconds, and where the file system keeps it."""

    size: int
    modified: int
    changed: int
    inode: int
    device: int

    @classmethod
    def of(cls, found: os.stat_result) -> Identity:
        """The identity in what `stat` says."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)

    def difference(self, now: Identity) -> str | None:
        """What became of a file that had this identity, in words; None where nothing did."""
        if now == self:
            return None
        if now.size != self.size:
            return f"it held {self.size} bytes and now holds {now.size}"
        if (now.inode, now.device) != (self.inode, self.device):
            return "another file has taken its place"
        return "it was written to since" if now.modified != self.modified else "it was written to or moved since"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file and its identity when it was opened.

    `keep` is held as long as anything that reads the file: the temporary folder that it lies in.
    """

    path: Path
    identity: Identity
    keep: object = field(default=None, compare=False)

    @classmethod
    def of(cls, path: Path, keep: object = None) -> SourceFile:
        """The file at a path as it is now; raises `OSError` where there is none."""
        return cls(path, Identity.of(path.stat()), keep)

    @property
    def size(self) -> int:
        """Its bytes when it was opened."""
        return self.identity.size

    def difference(self) -> str | None:
        """What became of the file since it was opened, in words; None where nothing did."""
        try:
            return self.identity.difference(Identity.of(self.path.stat()))
        except OSError as error:
            return _gone(error)

    def require_unchanged(self) -> None:
        """Raise `Changed` where the file is no longer what was opened."""
        if (difference := self.difference()) is not None:
            raise self._changed(difference)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, for reading; `Changed` is raised before or after, in place of whatever the reading made of it."""
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise self._changed(_gone(error)) from error
        with file:
            self._require(file)
            try:
                yield file
            finally:
                self._require(file)

    def read(self, offset: int, size: int) -> Bytes:
        """`size` bytes from `offset` on, in memory of their own."""
        found = np.empty(size, np.uint8)
        with self.open() as file:
            file.seek(offset)
            count = file.readinto(found.data)  # type: ignore[attr-defined]
        if count != size:
            raise self._changed(f"it ends {size - count} bytes early")
        return found

    def sha256(self) -> str:
        """Hex digest of the content that was opened."""
        with self.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

    def _require(self, file: BinaryIO) -> None:
        difference = self.identity.difference(Identity.of(os.fstat(file.fileno())))
        if difference is not None:
            raise self._changed(difference)

    def _changed(self, difference: str) -> Changed:
        what = f"{self.path.name} in {self.path.parent.name} has changed since it was opened"
        return Changed(what, difference, "open it again (on the page: add it again) to use what is there now")


def _gone(error: OSError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "it was deleted or moved"
    return f"it can no longer be read: {error.strerror or error}"
