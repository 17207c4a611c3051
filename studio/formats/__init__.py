"""Adapter files: one file a dialect, each with `sniff(bundle)` (evidence) and `read(bundle)`; writing in `export`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

from studio.adapter import Adapter
from studio.errors import MissingFile, Refused
from studio.formats import cloneofsimo, diffusers, kohya, lycoris, mlx, peft, sam
from studio.formats.bundle import Bundle, open_bundle
from studio.formats.export import save_adapter

__all__ = ["DIALECTS", "detect", "open_adapter", "read_bundle", "save_adapter"]

# In the order of detection, formats.md section 7: the first that recognises a file reads it.
DIALECTS: tuple[ModuleType, ...] = (sam, cloneofsimo, lycoris, kohya, mlx, diffusers, peft)


def open_adapter(path: str | Path) -> Adapter:
    """Open a folder, a zip of one, or a single weights file. Values stay on disk until they are read.

    Raises `MissingFile` where nothing is, `Refused` for what is not a LoRA adapter.
    """
    path = Path(path).expanduser()
    try:
        return read_bundle(open_bundle(path))
    except OSError as error:
        raise MissingFile(
            f"{path} cannot be read", error.strerror or str(error), "check the path and its permissions"
        ) from error


def read_bundle(bundle: Bundle) -> Adapter:
    """Read an opened bundle by the first dialect that recognises it."""
    dialect, evidence = detect(bundle)
    adapter: Adapter = dialect.read(bundle)
    return replace(adapter, evidence=evidence, findings=(*bundle.findings, *adapter.findings))


def detect(bundle: Bundle) -> tuple[ModuleType, str]:
    """The dialect of a bundle and the evidence for it; raises `Refused` where none fits."""
    for dialect in DIALECTS:
        evidence = dialect.sniff(bundle)
        if evidence:
            return dialect, evidence
    some = ", ".join(bundle.keys[:3]) or "none"
    raise Refused(f"{bundle.name} is no adapter that is known here", f"its {len(bundle.keys)} tensors are named {some}")
