"""Adapter files in and out: `open_adapter`, `inspect`, `save_adapter`. One file a dialect, listed in `registry`."""

from __future__ import annotations

from pathlib import Path

from studio.adapter import Adapter
from studio.errors import MissingFile
from studio.formats.bundle import open_bundle
from studio.formats.export import save_adapter
from studio.formats.inspection import Inspection, inspect
from studio.formats.names import looks_like_id
from studio.formats.registry import DIALECTS, detect, read_bundle

__all__ = ["DIALECTS", "Inspection", "detect", "inspect", "open_adapter", "read_bundle", "save_adapter"]


def open_adapter(path: str | Path) -> Adapter:
    """Open a folder, a zip of one, a single weights file, or (as text) a Hub id `owner/name` that is no path here.

    Values stay on disk until they are read. Raises `MissingFile` where nothing is, `Refused` for what is not a LoRA
    adapter, `NotAtHand` where the Hub cannot be reached.
    """
    if isinstance(path, str) and looks_like_id(path) and not Path(path).exists():
        from studio.hub import fetch

        path = fetch(path)
    path = Path(path).expanduser()
    try:
        return read_bundle(open_bundle(path))
    except OSError as error:
        why = error.strerror or str(error)
        raise MissingFile(f"{path} cannot be read", why, "check the path and its permissions") from error
