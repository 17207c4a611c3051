"""Tensors that stay on disk until they are read.

A `TensorRef` knows shape and dtype from the file's header; `read()` gives float32. Nothing here runs code from a file:
safetensors and npz hold numbers only, and torch pickles pass through `weights_only=True`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from studio.errors import Refused
from studio.late import torch

Array = np.ndarray[Any, np.dtype[np.float32]]

_NUMPY_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
}
_MAX_TENSORS = 200_000
_LFS_MARK = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True, eq=False)
class TensorRef:
    """Shape and dtype of a stored tensor, and how to read it."""

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Array]

    def read(self) -> Array:
        """The values as float32; writing to them never reaches the file."""
        return self.load()

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class TensorFile:
    """All tensors of one file by key, with the file's own metadata."""

    tensors: Mapping[str, TensorRef]
    metadata: Mapping[str, str] = field(default_factory=dict)


def in_memory(values: Array, dtype: str = "F32") -> TensorRef:
    """Wrap an array that is already here."""
    return TensorRef(tuple(values.shape), dtype, partial(np.asarray, values))


def open_tensors(path: Path) -> TensorFile:
    """Open a weights file by what it contains, not by its suffix.

    Raises `Refused` for Git-LFS pointers, empty or truncated files, and unknown content.
    """
    with path.open("rb") as file:
        head = file.read(256)
    if head.startswith(_LFS_MARK):
        raise Refused(
            f"{path.name} is a Git-LFS pointer, not weights",
            "the repository was downloaded without its large files",
            "run `git lfs pull` in it, or download the file itself",
        )
    if head[:4] == b"GGUF":
        raise Refused(
            f"{path.name} is a GGUF file",
            "GGUF adapters are not read here",
            "use the PEFT folder that it was converted from",
        )
    if head[:4] == b"PK\x03\x04":
        return open_npz(path) if path.suffix == ".npz" else open_pickle(path)
    if head[:1] == b"\x80" or path.suffix in {".bin", ".pt", ".pth"}:
        return open_pickle(path)
    return open_safetensors(path)


def open_safetensors(path: Path) -> TensorFile:
    """Map a safetensors file; the library checks the header, the values stay on disk."""
    size = path.stat().st_size
    if size < 8:
        raise Refused(
            f"{path.name} holds {size} bytes",
            "a safetensors file starts with an 8-byte length",
            "download or save it again",
        )
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
    except Exception as error:  # the library raises its own type; its text says which rule the header broke
        raise Refused(
            f"{path.name} is not a whole safetensors file", str(error), "download or save it again"
        ) from error
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        header: dict[str, Any] = json.loads(raw.read(length))
    header.pop("__metadata__", None)
    if len(header) > _MAX_TENSORS:
        raise Refused(f"{path.name} names {len(header)} tensors", f"the limit is {_MAX_TENSORS}")
    tensors = {
        key: TensorRef(
            tuple(entry["shape"]),
            entry["dtype"],
            partial(_read_mapped, path, entry["dtype"], 8 + length + entry["data_offsets"][0], tuple(entry["shape"])),
        )
        for key, entry in header.items()
    }
    return TensorFile(tensors, metadata)


def open_npz(path: Path) -> TensorFile:
    """Open a numpy zip; object arrays (pickles) are refused by numpy itself."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: np.asarray(archive[key]) for key in archive.files}
    except (ValueError, OSError, KeyError, EOFError) as error:
        raise Refused(
            f"{path.name} is not a whole numpy archive", str(error), "save it again with numpy.savez"
        ) from error
    return TensorFile({key: _from_numpy(array) for key, array in arrays.items()})


def open_pickle(path: Path) -> TensorFile:
    """Load a torch file through the weights-only loader; a list of tensors gets its positions as keys."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises many types; any of them means "not plain tensors"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Refused(
            f"{path.name} cannot be read as plain tensors",
            reason,
            "convert it to safetensors on a machine that trusts it",
        ) from error
    if isinstance(loaded, (list, tuple)):
        loaded = {str(index): value for index, value in enumerate(loaded)}
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise Refused(f"{path.name} holds a {type(loaded).__name__}", "expected a state dict of tensors")
    found = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
    if not found:
        raise Refused(f"{path.name} holds no tensors", "expected a state dict of tensors")
    return TensorFile({key: _from_torch(value) for key, value in found.items()})


def _from_numpy(array: np.ndarray[Any, Any]) -> TensorRef:
    name = next((key for key, code in _NUMPY_DTYPES.items() if np.dtype(code) == array.dtype), str(array.dtype))
    return TensorRef(tuple(array.shape), name, partial(np.asarray, array, dtype=np.float32))


def _from_torch(tensor: torch.Tensor) -> TensorRef:
    short = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
    name = str(tensor.dtype).removeprefix("torch.")
    return TensorRef(tuple(tensor.shape), short.get(name, name), partial(_torch_to_numpy, tensor))


def _torch_to_numpy(tensor: torch.Tensor) -> Array:
    values: Array = tensor.detach().to(torch.float32).contiguous().numpy()
    return values


def _read_mapped(path: Path, dtype: str, offset: int, shape: tuple[int, ...]) -> Array:
    """Read one tensor of a safetensors file as float32; float32 stays a private, copy-on-write mapping."""
    count = math.prod(shape)
    if count == 0:
        return np.zeros(shape, np.float32)
    if dtype == "BF16":  # the upper half of a float32
        halves = np.memmap(path, "<u2", "r", offset, (count,))
        return (np.asarray(halves, np.uint32) << 16).view(np.float32).reshape(shape)
    if dtype in _NUMPY_DTYPES:
        mapped = np.memmap(path, _NUMPY_DTYPES[dtype], "c", offset, (count,))
        return np.asarray(mapped, np.float32).reshape(shape)
    if dtype.startswith("F8"):
        kind = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}.get(dtype)
        if kind is not None:
            raw = np.fromfile(path, np.uint8, count, offset=offset)
            return _torch_to_numpy(torch.from_numpy(raw).view(kind)).reshape(shape)
    raise Refused(
        f"{path.name} stores a tensor as {dtype}",
        "that number format is not supported",
        "save it as float32, float16 or bfloat16",
    )
