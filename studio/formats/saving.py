"""Save an adapter so that it is either wholly there and equal to what was composed, or not there at all.

Written beside the target under a temporary name, synced, read back and compared, then renamed.
"""

from __future__ import annotations

import math
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from studio.core.adapter import Adapter, LoraModule, pair_norm
from studio.core.errors import LoomError
from studio.core.outputs import require_folder, stays
from studio.formats.containers.bundle import open_bundle, read_config
from studio.formats.containers.safetensors_file import DTYPE_CODES, SaveDtype
from studio.formats.detection import read_as
from studio.formats.dialects import DIALECTS
from studio.formats.modules.base_config import cached_base_config
from studio.formats.writers import WRITERS, Writer
from studio.formats.writers.registry import BaseConfig

RECIPE, CARD = "recipe.yaml", "README.md"
# Largest relative error of a delta, ||read - meant|| / ||meant||: two factors, each rounded once.
_TOLERANCE: Mapping[str, float] = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 1e-2}


def save_adapter(
    adapter: Adapter,
    path: str | Path,
    format: str = "peft",
    *,
    dtype: SaveDtype = "float32",
    recipe: str | None = None,
    card: str | None = None,
    base_config: str | Path | None = None,
) -> Path:
    """Write an adapter folder in one of `WRITERS`, or a zip of one where the path ends in .zip; returns the path.

    `base_config` is the base model's config.json, which GGUF needs; without it the Hub's cache is asked. Reads the
    result back and compares every delta before the name becomes visible. An earlier export there is replaced; raises
    `LoomError` where something else is, where the format cannot hold the adapter, where a number does not fit the
    dtype, or where the disk refuses, and `Changed` where the adapter's files are no longer what was opened.
    """
    asked = Path(path).expanduser()
    target = Path(os.path.realpath(asked)) if asked.is_symlink() else asked  # a link stays, what it leads to is written
    writer = _writer(format)
    base = _base_config(adapter, writer, base_config)
    _check(adapter, target, writer, dtype)
    writer.require(adapter, base)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # An earlier export that somebody has open cannot be removed on Windows: this one is there all the same.
        with tempfile.TemporaryDirectory(
            prefix=f".{target.name}-", dir=target.parent, ignore_cleanup_errors=True
        ) as temporary:
            folder = Path(temporary) / "adapter"
            folder.mkdir()
            writer.write(adapter, folder, dtype, base)
            _write_text(folder / RECIPE, recipe)
            _write_text(folder / CARD, card)
            sync_folder(folder)
            compare(adapter, read_as(DIALECTS[writer.dialect], open_bundle(folder)), _TOLERANCE[dtype])
            adapter.require_unchanged()  # after the last read: what is published is of the files that were opened
            _publish(_zipped(folder) if _is_zip(target) else folder, target, Path(temporary) / "earlier")
        sync_folder(target.parent)
    except OSError as error:
        raise LoomError(
            f"{target} could not be written", error.strerror or str(error), "choose another place"
        ) from error
    return asked


def compare(meant: Adapter, found: Adapter, tolerance: float) -> None:
    """Raise `LoomError` unless both adapters update the same modules equally, up to a relative Frobenius error.

    Modules of the second alone may be there if they are zero: the parts of a fused layer that no one adapts.
    """
    zero = {name for name in found.modules.keys() - meant.modules.keys() if found.modules[name].norm() == 0}
    odd = (meant.modules.keys() ^ (found.modules.keys() - zero)) | (meant.extras.keys() ^ found.extras.keys())
    if odd:
        raise LoomError("the saved file does not hold what was composed", f"it differs in {sorted(odd)[0]}")
    for name, module in meant.modules.items():
        error = relative_error(module, found.modules[name])
        if not error <= tolerance:
            raise LoomError(
                "the saved file does not equal what was composed",
                f"{name} differs by {error:.2g} of its norm, {tolerance:g} is allowed",
                "save as float32",
            )


def relative_error(meant: LoraModule, found: LoraModule) -> float:
    """||dW - dW'|| / ||dW|| from the factors alone; the absolute error where the first is zero.

    Equal factors are told at once. Else in float64, where Gram matrices cancel to about 1e-8 of the norm: no smaller
    difference can be told from none.
    """
    (a, b), (c, d) = meant, found
    if meant.scaling == found.scaling and np.array_equal(a, c) and np.array_equal(b, d):
        return 0.0 if math.isfinite(float(a.sum()) + float(b.sum())) else math.inf
    down = np.vstack([a, c]).astype(np.float64)
    up = np.hstack([meant.scaling * b.astype(np.float64), -found.scaling * d.astype(np.float64)])
    error = pair_norm(down, up)
    return error / (meant.norm() or 1.0) if math.isfinite(error) else math.inf


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _writer(format: str) -> Writer:
    if format not in WRITERS:
        raise LoomError(f"there is no writer for {format!r}", next=f"choose one of {', '.join(WRITERS)}")
    return WRITERS[format]


def _base_config(adapter: Adapter, writer: Writer, given: str | Path | None) -> BaseConfig:
    """The base's config.json for the format that needs it; empty where none is given or cached."""
    if not writer.needs_base_config:
        return {}
    if given is None:
        return cached_base_config(adapter.base)
    path = Path(given).expanduser()
    try:
        return read_config(path / "config.json" if path.is_dir() else path)
    except OSError as error:
        raise LoomError(
            f"{path} cannot be read", error.strerror or str(error), "give the base's config.json"
        ) from error


def _check(adapter: Adapter, target: Path, writer: Writer, dtype: str) -> None:
    if dtype not in DTYPE_CODES:
        raise LoomError(f"tensors are not saved as {dtype!r}", next=f"choose one of {', '.join(DTYPE_CODES)}")
    if not adapter.modules:
        raise LoomError(f"{adapter.name} adapts no module", next="keep at least one")
    _check_place(target, writer)


def require_export_place(path: Path | None, format: str) -> None:
    """Raise `LoomError`, before the work that makes an export, where `save_adapter` could not put it."""
    if path is not None:
        target = Path(os.path.realpath(path.expanduser()))
        _check_place(target, _writer(format))
        require_folder(target.parent, path)


def _check_place(target: Path, writer: Writer) -> None:
    if target.is_dir() and not _is_replaceable(target, writer):
        raise stays(target, "a folder with something else than an export")
    if target.exists() and not target.is_dir() and (not _is_zip(target) or not zipfile.is_zipfile(target)):
        raise stays(target, "a file, not an export")


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def _is_replaceable(folder: Path, writer: Writer) -> bool:
    """Whether a folder is empty or an earlier export: with anything else in it, it is never replaced."""
    names, files = {entry.name for entry in folder.iterdir()}, set(writer.files)
    return not names or files <= names <= files | {RECIPE, CARD}


def _write_text(path: Path, text: str | None) -> None:
    if text is None:
        return
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _zipped(folder: Path) -> Path:
    packed = folder.with_suffix(".zip")
    with packed.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for member in sorted(folder.iterdir()):
                archive.write(member, member.name)
        file.flush()
        os.fsync(file.fileno())
    return packed


def _publish(ready: Path, target: Path, aside: Path) -> None:
    """Rename into place; an earlier export folder steps aside first and comes back if the rename fails."""
    if not target.is_dir():
        os.replace(ready, target)
        return
    target.rename(aside)
    try:
        ready.rename(target)
    except OSError:
        aside.rename(target)
        raise
