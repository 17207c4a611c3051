"""Where results go, asked before the work that makes them: nothing is written over, and no hour of work is lost.

What the studio wrote itself is replaced by what it writes next to the same name; anything else stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from studio.core.errors import LoomError

_START = 4096  # bytes that say what a file is


def require_place(path: Path | None, kind: str, is_earlier: Callable[[Path], bool]) -> None:
    """Raise `LoomError` unless a file can be written at `path`, where nothing lies or an earlier file of its `kind`.

    `kind` is that kind with its article; `is_earlier` tells such a file. No path is no question.
    """
    if path is None:
        return
    if path.is_dir():
        raise stays(path, f"a folder, not {kind}")
    if path.exists() and not (path.is_file() and is_earlier(path)):
        raise stays(path, f"a file, not {kind}")
    require_folder(path.absolute().parent, path)


def stays(path: Path, found: str) -> LoomError:
    """The error where something else lies."""
    return LoomError(f"{path} is {found}", "it is not overwritten", "choose another name")


def require_folder(folder: Path, path: Path) -> None:
    """Raise `LoomError` where `path` cannot be made, in a `folder` that is there or is still to be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    why = "" if folder.is_dir() else f"{folder} is not a folder"
    if not why and not os.access(folder, os.W_OK | os.X_OK):
        why = f"{folder} does not allow it"
    if why:
        raise LoomError(f"{path} could not be written", why, "choose another place")


def starts_with(*words: bytes) -> Callable[[Path], bool]:
    """Tells a file by words that its first bytes hold, in this order."""

    def found(path: Path) -> bool:
        with path.open("rb") as file:
            start = file.read(_START)
        places = [start.find(word) for word in words]
        return places[0] == 0 and -1 not in places and places == sorted(places)

    return found
