"""Adapter files in and out: `open_adapter`, `inspect`, `save_adapter`.

`containers` are files that hold tensors, `dialects` the ways to name them (one file each), `writers` the export targets
(one file each), `modules` what dialects and writers share. `detection`, `opening`, `inspection` and `saving` tie them
together; `dora` and `projections` take apart what needs the base, or its config, at hand.
"""

from __future__ import annotations

from pathlib import Path

from studio.core.errors import Refused
from studio.formats.containers.bundle import nested_adapters
from studio.formats.detection import detect, read_bundle
from studio.formats.dialects import DIALECTS, embedded
from studio.formats.dora import open_dora
from studio.formats.inspection import Inspection, inspect
from studio.formats.opening import Opened, bundle_at, open_adapter, open_once, unreadable
from studio.formats.saving import save_adapter
from studio.formats.writers import WRITERS

__all__ = [
    "DIALECTS",
    "WRITERS",
    "Inspection",
    "Opened",
    "detect",
    "embedded_adapters",
    "inspect",
    "open_adapter",
    "open_dora",
    "open_once",
    "read_bundle",
    "save_adapter",
]


def embedded_adapters(path: str | Path) -> tuple[str, ...]:
    """The names of the adapters inside a checkpoint, for `open_adapter(f"{path}#{name}")`; empty for one without names.

    A model's folder may hold them in folders `<name>-lora`, too. Reads headers alone; raises as `open_adapter` does.
    """
    try:
        nested = nested_adapters(Path(path).expanduser())
        return tuple(sorted({*nested, *_stored_names(path, bool(nested))}))
    except OSError as error:
        raise unreadable(path, error) from error


def _stored_names(path: str | Path, has_folders: bool) -> tuple[str, ...]:
    """The names in the files themselves; beside adapters that have folders, a checkpoint may hold none."""
    try:
        return embedded.names(bundle_at(path).keys)
    except Refused:
        if has_folders:
            return ()
        raise
