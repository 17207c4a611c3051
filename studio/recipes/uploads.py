"""From dropped files to adapter folders in the visitor's workspace: configs find their weights, zips are unpacked."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from studio.core.errors import LoomError, Refused
from studio.core.files import sha256
from studio.formats.containers.bundle import CONFIG, WEIGHT_SUFFIXES, locate_in_zip, read_config

_EVERYBODYS = frozenset({"adapter_model", "adapter", "pytorch_lora_weights", "adapters", "model"})


def receive(files: Sequence[Path], uploads: Path) -> Iterator[tuple[str, Path | LoomError]]:
    """Give each adapter among the files a folder of its own in `uploads`: (name, folder or why not).

    A config and one weights file dropped together are one adapter. Several weights with a config are several adapters
    that share it, as a trainer's checkpoints do. A folder's name carries the content hash, so the same file lands once.
    """
    configs = [file for file in files if file.name == CONFIG]
    weights = [file for file in files if file.suffix in WEIGHT_SUFFIXES]
    for file in files:
        if file.suffix == ".zip":
            yield file.stem, _kept(file, uploads, None)
        elif file.suffix == ".json" and not weights and not configs:
            why = f"the only JSON of an adapter is {CONFIG}"
            yield file.name, Refused(f"{file.name} says nothing by itself", why, "drop the weights")
        elif file.suffix not in {*WEIGHT_SUFFIXES, ".json"}:
            yield (
                file.name,
                Refused(f"{file.name} is not an adapter file", next="drop weights, a config with them, or a zip"),
            )
    if len(configs) > 1 and weights:
        yield (
            CONFIG,
            Refused(
                "Several configs came together", "it is not clear which belongs to which", "drop one at a time, or zips"
            ),
        )
        return
    for file in weights:
        config = configs[0] if configs else None
        yield _name(file, config), _kept(file, uploads, config)
    if configs and not weights:
        yield CONFIG, Refused("The config came without its weights", next="drop both files together")


def _name(file: Path, config: Path | None) -> str:
    """The file's name; of one that every trainer calls the same, what it adapts, where its config says so."""
    if file.stem not in _EVERYBODYS or config is None:
        return file.stem
    try:
        base = read_config(config).get("base_model_name_or_path")
    except LoomError:
        return file.stem  # what is wrong with it is said when it is opened
    return f"{plain(Path(base).name)} LoRA" if isinstance(base, str) and Path(base).name else file.stem


def _kept(file: Path, uploads: Path, config: Path | None) -> Path | LoomError:
    digest = sha256(file)[:12] + (sha256(config)[:6] if config is not None else "")
    folder = uploads / f"{plain(file.stem)}-{digest}"
    if folder.is_dir():
        return folder
    coming = uploads / f".{folder.name}-{secrets.token_hex(4)}"  # its own: two clicks bring the same file at once
    coming.mkdir(parents=True)
    try:
        if file.suffix == ".zip":
            locate_in_zip(file, coming)
        else:
            shutil.copyfile(file, coming / plain(file.name))
            if config is not None:
                shutil.copyfile(config, coming / CONFIG)
    except LoomError as error:
        shutil.rmtree(coming, ignore_errors=True)
        return error
    try:
        coming.rename(folder)
    except OSError:
        shutil.rmtree(coming, ignore_errors=True)
        if not folder.is_dir():  # the other click's is as good
            raise
    return folder


def plain(name: str) -> str:
    """A name without anything that a file system or a recipe could misread."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80] or "adapter"
