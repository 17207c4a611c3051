"""Find an adapter's files: a folder, a zip of one, or a single weights file with or without its config."""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from studio.core.errors import MissingFile, Refused
from studio.core.files import read_at_most
from studio.core.source_file import SourceFile
from studio.core.tensors import TensorFile, TensorRef, open_tensors
from studio.core.text import read_json
from studio.formats.containers.gguf_file import is_gguf, open_gguf

CONFIG = "adapter_config.json"
_BASE_CONFIG = "config.json"
_INDEX = ".safetensors.index.json"  # says which file of a sharded checkpoint holds which tensor
NESTED = "-lora"  # a model's folder may hold its adapters in folders of their own: vision-lora, speech-lora
# In the order of trust: a folder that holds several is read from the first.
WEIGHT_NAMES = (
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
    "adapters.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.bin",
    "adapters.npz",
)
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".gguf")
# What trainers leave beside a checkpoint's weights.
_NO_WEIGHTS = ("optimizer", "scheduler", "rng_state", "random_states", "scaler", "training_args")
_GGLA = b"algg"  # 0x67676c61, little-endian
_MAX_CONFIG_BYTES = 4 << 20
_MAX_INDEX_BYTES = 64 << 20
_MAX_UNPACKED = 16 << 30
_MAX_ZIP_RATIO = 100  # weights hardly compress; even an untrained adapter, half of it zeros, stays far below


@dataclass(frozen=True, eq=False)
class Bundle:
    """An adapter's files, opened but not yet understood; `selected` names one of several adapters in them.

    `nested` are the names of further ones, in folders of their own beside these files. `files` are those that decide
    what the adapter is, the one first whose content stands for all: the weights, or the zip that they came in.
    """

    path: Path
    weights: Path
    file: TensorFile
    config: Mapping[str, Any] | None = None
    selected: str | None = None
    nested: tuple[str, ...] = ()
    files: tuple[SourceFile, ...] = ()

    @cached_property
    def tensors(self) -> Mapping[str, TensorRef]:
        """Tensors by key; each knows its own."""
        return {key: replace(tensor, key=key) for key, tensor in self.file.tensors.items()}

    @property
    def metadata(self) -> Mapping[str, str]:
        """The weights file's own metadata."""
        return self.file.metadata

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The tensor keys, in file order."""
        return tuple(self.file.tensors)

    @property
    def is_sharded(self) -> bool:
        """Whether the tensors are taken out of a sharded checkpoint."""
        return self.weights.name.endswith(_INDEX)

    @property
    def size(self) -> int:
        """Bytes of the weights file, or of the tensors taken out of a sharded checkpoint."""
        if self.is_sharded:
            return sum(tensor.nbytes for tensor in self.tensors.values())
        return sum(file.size for file in self.file.files)

    @cached_property
    def base_config(self) -> Mapping[str, Any]:
        """The config.json of a base model beside the weights; empty where there is none."""
        path = self.weights.parent / _BASE_CONFIG
        return read_config(path) if path.is_file() else {}

    @property
    def name(self) -> str:
        """What to call the adapter: its folder, or its file without suffix; for a Hub snapshot the repository."""
        if self.path.is_file():
            return self.path.stem
        folder = self.path.resolve()
        owner = folder.parent.parent.name  # models--owner--name/snapshots/commit
        return owner.split("--")[-1] if owner.startswith("models--") else folder.name


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """Where an adapter's files are, before anything is opened; an unpacked zip goes when `keep`'s last holder does."""

    path: Path
    weights: Path
    config: Path | None = None
    keep: tempfile.TemporaryDirectory[str] | None = None
    archive: SourceFile | None = None


def open_bundle(path: Path, selected: str | None = None) -> Bundle:
    """Open an adapter's files; headers only, no values are read.

    Where the folder of a model holds adapters in folders of their own, `selected` may name one of those; a name that
    has no folder is looked for in its checkpoint. Raises `MissingFile` where there is nothing, `Refused` where there is
    no adapter.
    """
    nested = nested_adapters(path)
    if selected is not None and selected in nested:
        return _opened(nested[selected], None)
    try:
        return _opened(path, selected, tuple(nested))
    except (Refused, MissingFile):
        if not nested:
            raise
        return _opened(_chosen(path, nested, selected), None)


def _opened(path: Path, selected: str | None, nested: tuple[str, ...] = ()) -> Bundle:
    located = locate(path)
    configs = (located.config, located.weights.with_name(_BASE_CONFIG))
    beside = [SourceFile.of(config) for config in configs if config is not None and config.is_file()]
    config = read_config(located.config) if located.config else None
    file = _open_weights(located)
    archive = [located.archive] if located.archive else []
    return Bundle(path, located.weights, file, config, selected, nested, (*archive, *file.files, *beside))


def nested_adapters(path: Path) -> Mapping[str, Path]:
    """The folders `<name>-lora` of a model's folder that hold weights, by name; none where the folder is an adapter's.

    Phi-4-multimodal keeps a copy of its adapters so.
    """
    if not path.is_dir() or any((path / name).is_file() for name in (CONFIG, *WEIGHT_NAMES)):
        return {}
    folders = sorted(folder for folder in path.iterdir() if folder.name.endswith(NESTED) and folder.is_dir())
    return {
        folder.name.removesuffix(NESTED): folder
        for folder in folders
        if folder.name != NESTED and any((folder / name).is_file() for name in WEIGHT_NAMES)
    }


def unclear(name: str | None, where: str, found: Collection[str]) -> Refused:
    """What to say where one of several adapters is meant, and `name` is none of them."""
    what = f"no adapter here is named {name[:80]}" if name else "the file holds several adapters"
    return Refused(
        what, f"there are {', '.join(found)}", f"open {' or '.join(f'{where}#{choice}' for choice in found)}"
    )


def _chosen(path: Path, nested: Mapping[str, Path], selected: str | None) -> Path:
    name = selected or (next(iter(nested)) if len(nested) == 1 else None)
    if name is None or name not in nested:
        raise unclear(name, path.name, nested)
    return nested[name]


def split_selection(path: str | Path) -> tuple[Path, str | None]:
    """A path and the adapter chosen in it: `checkpoint#vision`; a file whose own name holds a # is just that file."""
    whole, mark, name = str(path).rpartition("#")
    if not mark or not whole or not name or Path(path).exists():
        return Path(path), None
    return Path(whole), name


def _open_weights(located: Located) -> TensorFile:
    if located.weights.name.endswith(_INDEX):
        return _open_shards(located.weights)
    if is_gguf(located.weights):
        return open_gguf(located.weights, located.keep)
    with located.weights.open("rb") as file:
        if file.read(4) == _GGLA:
            what = f"{located.weights.name} is an adapter in llama.cpp's format of 2023 (ggla)"
            raise Refused(what, "llama.cpp itself no longer reads it", "take the adapter that it was made from")
    return open_tensors(located.weights, located.keep)


def _open_shards(index: Path) -> TensorFile:
    """The LoRA tensors of a sharded checkpoint; files that hold none are not touched."""
    files = [SourceFile.of(index)]
    places = read_config(index, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(places, dict):
        raise Refused(f"{index.name} has no weight_map", next="download the checkpoint again")
    wanted = {key: place for key, place in places.items() if ".lora_" in key}
    if not wanted:
        raise Refused(f"{index.parent.name} holds a whole model, no adapter", "no tensor in it is named lora_A")
    tensors: dict[str, TensorRef] = {}
    for place in sorted(set(map(str, wanted.values()))):
        if Path(place).name != place or not (index.parent / place).is_file():
            raise Refused(f"{index.name} names a file that is not beside it", f"it is {place[:80]!r}")
        shard = open_tensors(index.parent / place)
        files += shard.files
        tensors |= {key: tensor for key, tensor in shard.tensors.items() if wanted.get(key) == place}
    missing = sorted(wanted.keys() - tensors.keys())
    if missing:
        raise Refused(f"{index.parent.name} lacks {len(missing)} tensors of its index", f"for example {missing[0]}")
    return TensorFile(tensors, files=tuple(files))


def locate(path: Path) -> Located:
    """Find the weights and the config that belong to a path given by a person.

    Raises `MissingFile` where there is nothing, `Refused` where there is no adapter.
    """
    if not path.exists():
        raise MissingFile(f"{path} is not there", next="check the path, or give a Hub id as owner/name")
    if path.is_dir():
        return _locate_in_folder(path)
    if path.name == CONFIG:
        return _locate_in_folder(path.parent)
    if path.suffix.lower() == ".zip":
        return locate_in_zip(path)
    if path.suffix.lower() not in WEIGHT_SUFFIXES and not path.name.endswith(_INDEX):
        suffixes = ", ".join(WEIGHT_SUFFIXES)
        raise Refused(f"{path.name} is not an adapter file", next=f"give a folder, a zip of one, or a {suffixes} file")
    config = path.parent / CONFIG
    return Located(path, path, config if config.is_file() else None)


def read_config(path: Path, limit: int = _MAX_CONFIG_BYTES) -> Mapping[str, Any]:
    """Read a JSON file as a mapping; anything else, and more than `limit` bytes, is refused."""
    content = read_at_most(path, limit)
    if content is None:
        raise Refused(f"{path.name} is longer than {limit} bytes", "a config is a few thousand")
    loaded = read_json(content, path.name)
    if not isinstance(loaded, dict):
        raise Refused(f"{path.name} holds a {type(loaded).__name__}", "expected an object of settings")
    return loaded


def choose_weights(names: Collection[str]) -> list[str]:
    """The files among these that may be the adapter's weights: one if that is clear, several if it is not, or none.

    A well-known name wins; a checkpoint's optimizer and the like do not count.
    """
    known = [name for name in WEIGHT_NAMES if name in names][:1]
    return known or sorted(name for name in names if _may_be_weights(name))


def _may_be_weights(name: str) -> bool:
    return Path(name).suffix.lower() in WEIGHT_SUFFIXES and not name.startswith(_NO_WEIGHTS)


def _locate_in_folder(folder: Path) -> Located:
    config = folder / CONFIG if (folder / CONFIG).is_file() else None
    found = choose_weights([file.name for file in folder.iterdir() if file.is_file()])
    index = [file for file in folder.iterdir() if file.name.endswith(_INDEX)]
    if len(index) == 1 and not set(found) & set(WEIGHT_NAMES):
        return Located(folder, index[0], config)
    if len(found) == 1:
        return Located(folder, folder / found[0], config)
    if found:
        why = f"it is not clear which one is meant: {', '.join(found[:4])}"
        raise Refused(f"{folder.name} holds {len(found)} weights files", why, "give the file itself")
    if config:
        next_step = "download or save the adapter again"
        raise Refused(f"{folder.name} has a config but no weights", f"no {WEIGHT_NAMES[0]} in it", next_step)
    why = f"no {WEIGHT_NAMES[0]} in it"
    inside = sorted(name.parent.name for name in folder.glob("*/*") if name.name in WEIGHT_NAMES)[:4]
    where = f"open {' or '.join(inside)} in it" if inside else "give the folder that holds the weights file"
    raise Refused(f"{folder.name} holds no adapter", why, where)


def locate_in_zip(path: Path, into: Path | None = None) -> Located:
    """Unpack the adapter files of a zip, and only those, into an existing folder or a temporary one.

    Raises `Refused` for a broken zip, a bomb, and one that holds no adapter or several.
    """
    keep = None if into else tempfile.TemporaryDirectory(prefix="loom-zip-", ignore_cleanup_errors=True)
    folder = into or Path(keep.name if keep else "")
    source = SourceFile.of(path)
    try:
        with source.open() as file, zipfile.ZipFile(file) as archive:
            wanted = [info for info in archive.infolist() if _is_wanted(info)]
            _require_sane(path, wanted)
            for info in wanted:
                _unpack(archive, info, folder)
    except (zipfile.BadZipFile, zlib.error, ValueError, RuntimeError, NotImplementedError, EOFError) as error:
        raise Refused(f"{path.name} is not a whole zip file", str(error), "pack or download it again") from error
    inner = _locate_in_folder(folder)
    return Located(path, inner.weights, inner.config, keep, source)


def _is_wanted(info: zipfile.ZipInfo) -> bool:
    name = Path(info.filename).name
    hidden = name.startswith(".") or "__MACOSX" in info.filename
    return not info.is_dir() and not hidden and (name == CONFIG or _may_be_weights(name))


def _require_sane(path: Path, wanted: Sequence[zipfile.ZipInfo]) -> None:
    if not wanted:
        raise Refused(f"{path.name} holds no adapter", next=f"put {CONFIG} and {WEIGHT_NAMES[0]} into it")
    total, limit = sum(info.file_size for info in wanted), max(1 << 20, _MAX_ZIP_RATIO * path.stat().st_size)
    if total > min(limit, _MAX_UNPACKED):
        raise Refused(f"{path.name} unpacks to {total} bytes", f"{min(limit, _MAX_UNPACKED)} are allowed for its size")
    if len({Path(info.filename).parent for info in wanted}) > 1 or len({info.filename for info in wanted}) < len(
        wanted
    ):
        next_step = "give each as a zip of its own, or unpack it and give the folders"
        raise Refused(f"{path.name} holds several adapters", next=next_step)


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path) -> None:
    """Write one member under its base name alone, so that no member can point outside the folder."""
    with archive.open(info) as source, (folder / Path(info.filename).name).open("wb") as out:
        while chunk := source.read(1 << 20):
            out.write(chunk)
