"""Where a base model's folder is: embedded, given by path, in the Hub's cache, or still to be downloaded."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import huggingface_hub

from studio.core.data import assets
from studio.core.errors import NotAtHand

EMBEDDED = "lora-loom/text-base"
EMBEDDED_FOLDER = assets("text", "base")
MAX_DOWNLOAD_BYTES = 32 << 30

_HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
CONFIG = "config.json"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_MAX_INDEX_BYTES = 64 << 20


def folder_at_hand(source: str, revision: str | None) -> Path | None:
    """The whole folder of a base that is here already, or None."""
    if source == EMBEDDED:
        folder: Path | None = EMBEDDED_FOLDER
    elif os.path.isdir(source):  # unlike Path.is_dir, False for any text that is not a path at all
        folder = Path(source)
    else:
        folder = _cached(source, revision)
    return folder if folder is not None and _is_whole(folder) else None


def _cached(source: str, revision: str | None) -> Path | None:
    """The snapshot of a Hub id in the cache, whole or not."""
    if not _HUB_ID.fullmatch(source):
        return None
    try:
        # asked for the config alone, since a cache that holds less than the whole repository counts as incomplete
        folder = huggingface_hub.snapshot_download(
            source, revision=revision, allow_patterns=[CONFIG], local_files_only=True
        )
    except (OSError, ValueError):  # not in the cache, or not a name the Hub would give
        return None
    return Path(folder)


def _is_whole(folder: Path) -> bool:
    """Config, a tokenizer and all weights; whether they are sound shows when they are read."""
    has_texts = (folder / CONFIG).is_file() and any((folder / name).is_file() for name in _TOKENIZERS)
    return has_texts and any(_has_weights(folder, name) for name in _WEIGHTS)


def _has_weights(folder: Path, name: str) -> bool:
    """Whether a weights file is there, or all the shards that its index names."""
    index = folder / f"{name}.index.json"
    if (folder / name).is_file():
        return True
    if not index.is_file() or index.stat().st_size > _MAX_INDEX_BYTES:
        return False
    try:
        shards = {str(shard) for shard in json.loads(index.read_text("utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return bool(shards) and all(Path(shard).name == shard and (folder / shard).is_file() for shard in shards)


def commit_of(folder: Path) -> str | None:
    """The commit a Hub snapshot was taken from; the cache names its folders so."""
    return folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else None


def download(source: str, revision: str | None) -> Path:
    """Fetch a base from the Hub into its cache: configs, tokenizer and one form of the weights, nothing else."""
    if source == EMBEDDED or not _HUB_ID.fullmatch(source):
        raise NotAtHand(
            f"The base {source} is not here", next="choose a folder that holds config.json and weights, or a Hub id"
        )
    try:
        listed = huggingface_hub.HfApi().model_info(source, revision=revision, files_metadata=True).siblings or []
        sizes = {file.rfilename: file.size or 0 for file in listed}
        wanted = _wanted(sizes)
        _check_size(source, sum(sizes[name] for name in wanted))
        folder = Path(huggingface_hub.snapshot_download(source, revision=revision, allow_patterns=wanted))
    except NotAtHand:
        raise
    except Exception as error:  # no network, no such name, a gated model, or a server that is not the Hub
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise NotAtHand(
            f"The base {source} is not here and cannot be downloaded",
            reason,
            "check the name and the network, or choose a folder; all else works",
        ) from error
    if not _is_whole(folder):
        raise NotAtHand(f"{source} holds no weights that transformers reads", next="choose another base")
    return folder


def _check_size(source: str, size: int) -> None:
    if size > MAX_DOWNLOAD_BYTES:
        limit = f"the limit is {MAX_DOWNLOAD_BYTES >> 30}"
        raise NotAtHand(f"{source} is {size >> 30} GiB", limit, "download it yourself and give the folder")


def _wanted(names: Iterable[str]) -> list[str]:
    """The files at the top of a repository that a base needs; pickled weights only where there are no safetensors."""
    top = [name for name in names if "/" not in name]
    texts = [name for name in top if name.endswith((".json", ".txt", ".model", ".jinja"))]
    safe = [name for name in top if name.startswith("model") and name.endswith(".safetensors")]
    pickled = [name for name in top if name.startswith("pytorch_model") and name.endswith(".bin")]
    return texts + (safe or pickled)
