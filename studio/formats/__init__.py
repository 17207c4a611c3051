"""Adapter files in and out: `open_adapter`, `inspect`, `save_adapter`. One file a dialect, listed in `registry`."""

from __future__ import annotations

from pathlib import Path

from studio.core.adapter import Adapter
from studio.core.errors import MissingFile
from studio.formats.containers.bundle import Bundle, nested_adapters, open_bundle, split_selection
from studio.formats.dialects import embedded
from studio.formats.dialects.registry import DIALECTS, detect, read_bundle
from studio.formats.inspection import Inspection, inspect
from studio.formats.modules.dora import open_dora
from studio.formats.modules.names import looks_like_id
from studio.formats.writers.registry import WRITERS
from studio.formats.writers.save import save_adapter

__all__ = [
    "DIALECTS",
    "WRITERS",
    "Inspection",
    "detect",
    "embedded_adapters",
    "inspect",
    "open_adapter",
    "open_dora",
    "read_bundle",
    "save_adapter",
]


def open_adapter(path: str | Path) -> Adapter:
    """Open a folder, a zip of one, a single weights file, or (as text) a Hub id `owner/name` that is no path here.

    `path#name` opens one adapter of a file that holds several; see `embedded_adapters`. Values stay on disk until they
    are read. Raises `MissingFile` where nothing is, `Refused` for what is not a LoRA adapter, `NotAtHand` where the Hub
    cannot be reached.
    """
    try:
        return read_bundle(_open(path))
    except OSError as error:
        raise _unreadable(path, error) from error


def embedded_adapters(path: str | Path) -> tuple[str, ...]:
    """The names of the adapters inside a checkpoint, for `open_adapter(f"{path}#{name}")`; empty for one without names.

    A model's folder may hold them in folders `<name>-lora`, too. Reads headers alone; raises as `open_adapter` does.
    """
    try:
        nested = nested_adapters(Path(path).expanduser())
        if nested:
            return tuple(nested)
        return embedded.names(_open(path).keys)
    except OSError as error:
        raise _unreadable(path, error) from error


def _open(path: str | Path) -> Bundle:
    where, selected = split_selection(path)
    if isinstance(path, str) and looks_like_id(str(where)) and not where.exists():
        from studio.formats.containers.hub import fetch

        where = fetch(f"{where}#{selected}" if selected else str(where))
    return open_bundle(where.expanduser(), selected)


def _unreadable(path: str | Path, error: OSError) -> MissingFile:
    return MissingFile(f"{path} cannot be read", error.strerror or str(error), "check the path and its permissions")
