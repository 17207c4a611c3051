"""Paths as people write them, and files written so that a reader sees the old one or the new one, never half of it."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from studio.core.errors import MissingFile

_LONGEST_PATH, _LONGEST_NAME = 4096, 255  # bytes that the usual file systems take


def local_path(text: str) -> Path:
    """A path as a person wrote it, with the home folder filled in; nothing need be there.

    Raises `MissingFile` for a text that no file system takes, where asking for it would raise something untyped.
    """
    try:
        path = Path(text).expanduser()
        whole, names = os.fsencode(path), [os.fsencode(name) for name in path.parts]
    except (RuntimeError, UnicodeEncodeError) as error:  # no such user; half of a character
        raise MissingFile(f"{text[:80]!r} is not a path", str(error), "check the spelling") from error
    if "\0" in text or len(whole) > _LONGEST_PATH or any(len(name) > _LONGEST_NAME for name in names):
        raise MissingFile(f"{text[:80]!r} is not a path", "it is too long or has a zero in it", "check the spelling")
    return path


def write_atomic(path: Path, content: bytes) -> None:
    """Write to a temporary name beside the target, sync, rename; the mode is that of any new file.

    An `OSError` names the target.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def read_at_most(path: Path, limit: int) -> bytes | None:
    """A file's bytes; None where there are more than `limit`, so that a device without end is not read to its end."""
    with path.open("rb") as file:
        content = file.read(limit + 1)
    return content if len(content) <= limit else None


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
