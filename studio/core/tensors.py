"""Tensors that stay on disk until they are read.

A `TensorRef` knows shape and dtype from the file's header; `read()` gives float32. Nothing here runs code from a file:
safetensors and npz hold numbers only, and torch pickles pass through `weights_only=True`.
"""

from __future__ import annotations

import json
import math
import mmap
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from studio.core.errors import Refused
from studio.core.late import torch

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
_TORCH_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
_MAX_TENSORS = 200_000
_MAX_NPZ_RATIO = 100
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

    @property
    def nbytes(self) -> int:
        """Bytes as stored; the number format says its bits in its name (F32, BF16, F8_E4M3)."""
        bits = re.search(r"\d+", self.dtype)
        return self.size * (int(bits[0]) if bits else 32) // 8


@dataclass(frozen=True, slots=True, eq=False)
class TensorFile:
    """All tensors of one file by key, with the file's own metadata."""

    tensors: Mapping[str, TensorRef]
    metadata: Mapping[str, str] = field(default_factory=dict)


def in_memory(values: Array, dtype: str = "F32") -> TensorRef:
    """Wrap an array that is already here."""
    return TensorRef(tuple(values.shape), dtype, partial(np.asarray, values))


def open_tensors(path: Path, keep: object = None) -> TensorFile:
    """Open a weights file by what it contains, not by its suffix.

    `keep` is held as long as any of its tensors: the temporary folder that the file lies in.
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
        raise Refused(f"{path.name} is a GGUF file", next="open it with studio.formats.open_adapter")
    if head[8:9] == b"{":  # asked first, as a header's length may look like any other magic number
        return open_safetensors(path, keep)
    if head[:4] == b"PK\x03\x04":
        return open_npz(path, keep) if path.suffix.lower() == ".npz" else open_pickle(path)
    if head[:1] == b"\x80" or path.suffix.lower() in (".bin", ".pt", ".pth"):
        return open_pickle(path)
    return open_safetensors(path, keep)


def open_safetensors(path: Path, keep: object = None) -> TensorFile:
    """Map a safetensors file; the library checks the header, the values stay on disk."""
    size = path.stat().st_size
    if size < 8:
        why = "a safetensors file starts with an 8-byte length"
        raise Refused(f"{path.name} holds {size} bytes", why, "download or save it again")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
        with path.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            header: dict[str, Any] = json.loads(raw.read(length), object_pairs_hook=_without_duplicates)
    except Exception as error:  # the library raises its own type; its text says which rule the header broke
        raise Refused(
            f"{path.name} is not a whole safetensors file", str(error), "download or save it again"
        ) from error
    header.pop("__metadata__", None)
    if len(header) > _MAX_TENSORS:
        raise Refused(f"{path.name} names {len(header)} tensors", f"the limit is {_MAX_TENSORS}")
    start = 8 + length
    return TensorFile({key: _mapped_ref(path, start, entry, keep) for key, entry in header.items()}, metadata)


def mapped(path: Path, dtype: str, offset: int, shape: tuple[int, ...], keep: object = None) -> TensorRef:
    """A tensor of plain numbers at an offset of a file, read when it is asked for; dtype is safetensors' name."""
    return TensorRef(shape, dtype, _Mapped(path, dtype, offset, shape, keep))


def open_npz(path: Path, keep: object = None) -> TensorFile:
    """Open a numpy zip by its members' headers; object arrays (pickles) are refused by numpy itself."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            if sum(info.file_size for info in members) > _MAX_NPZ_RATIO * path.stat().st_size:
                raise Refused(f"{path.name} unpacks to more than {_MAX_NPZ_RATIO} times its size")
            names = [info.filename.removesuffix(".npy") for info in members]
            if len(set(names)) != len(names) or len(names) > _MAX_TENSORS:
                raise Refused(f"{path.name} names a tensor twice, or too many", next="save it again with numpy.savez")
            return TensorFile({name: _npz_ref(path, archive, name, keep) for name in names})
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise _broken_npz(path, error) from error


def open_pickle(path: Path) -> TensorFile:
    """Load a torch file through the weights-only loader; a list of tensors gets its positions as keys."""
    try:
        with path.open("rb") as file:  # given the path, torch would go by its suffix
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises many types; any of them means "not plain tensors"
        reason = _unpickling_trouble(error)
        next_step = "convert it to safetensors on a machine that trusts it"
        raise Refused(f"{path.name} cannot be read as plain tensors", reason, next_step) from error
    if isinstance(loaded, (list, tuple)):
        loaded = {str(index): value for index, value in enumerate(loaded)}
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise Refused(f"{path.name} holds a {type(loaded).__name__}", "expected a state dict of tensors")
    found = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
    if not found:
        raise Refused(f"{path.name} holds no tensors", "expected a state dict of tensors")
    return TensorFile({key: _from_torch(path, value) for key, value in found.items()})


@dataclass(frozen=True, slots=True, eq=False)
class _Mapped:
    """Reads one tensor of a safetensors file as float32; float32 stays a private, copy-on-write mapping."""

    path: Path
    dtype: str
    offset: int
    shape: tuple[int, ...]
    keep: object

    def __call__(self) -> Array:
        if 0 in self.shape:
            return np.zeros(self.shape, np.float32)
        if self.dtype == "BF16":  # the upper half of a float32
            return (self._stored("<u2").astype(np.uint32) << 16).view(np.float32).reshape(self.shape)
        if self.dtype in _NUMPY_DTYPES:
            return self._stored(_NUMPY_DTYPES[self.dtype]).astype(np.float32, copy=False).reshape(self.shape)
        if self.dtype in ("F8_E4M3", "F8_E5M2"):
            kind = torch.float8_e4m3fn if self.dtype == "F8_E4M3" else torch.float8_e5m2
            raw = np.fromfile(self.path, np.uint8, math.prod(self.shape), offset=self.offset)
            return _torch_to_numpy(torch.from_numpy(raw).view(kind)).reshape(self.shape)
        why = "that number format is not supported"
        raise Refused(
            f"{self.path.name} stores a tensor as {self.dtype}", why, "save it as float32, float16 or bfloat16"
        )

    def _stored(self, dtype: str) -> np.ndarray[Any, Any]:
        """The values as they lie in the file. `np.memmap` does the same, and spends longer on resolving the path."""
        before = self.offset % mmap.ALLOCATIONGRANULARITY
        size = math.prod(self.shape) * np.dtype(dtype).itemsize
        with self.path.open("rb") as file:
            part = mmap.mmap(file.fileno(), before + size, access=mmap.ACCESS_COPY, offset=self.offset - before)
        return np.frombuffer(part, dtype, math.prod(self.shape), before)


@dataclass(frozen=True, slots=True, eq=False)
class _Member:
    """Reads one member of a numpy zip as float32."""

    path: Path
    name: str
    keep: object

    def __call__(self) -> Array:
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                return np.asarray(archive[self.name], np.float32)
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise _broken_npz(self.path, error) from error


def _mapped_ref(path: Path, start: int, entry: Mapping[str, Any], keep: object) -> TensorRef:
    return mapped(path, entry["dtype"], start + entry["data_offsets"][0], tuple(entry["shape"]), keep)


def _npz_ref(path: Path, archive: zipfile.ZipFile, name: str, keep: object) -> TensorRef:
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(member)
        stored = archive.getinfo(f"{name}.npy").file_size - member.tell()
    if dtype.kind not in "fiu":
        raise Refused(f"{path.name} stores {name} as {dtype}", "expected numbers", "save it again with numpy.savez")
    if math.prod(shape) * dtype.itemsize > stored:
        raise Refused(f"{path.name} is not a whole numpy archive", f"{name} is shorter than its shape {shape}")
    label = next((key for key, code in _NUMPY_DTYPES.items() if np.dtype(code) == dtype), str(dtype))
    return TensorRef(tuple(shape), label, _Member(path, name, keep))


def _broken_npz(path: Path, error: Exception) -> Refused:
    return Refused(f"{path.name} is not a whole numpy archive", str(error), "save it again with numpy.savez")


def _unpickling_trouble(error: Exception) -> str:
    """The first line of an error, but not torch's when it advises to let the file run its code."""
    if isinstance(error, pickle.UnpicklingError):
        return "it holds more than plain tensors, or is damaged; what else it holds could run code"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header names a tensor twice")
    return found


def _from_torch(path: Path, tensor: torch.Tensor) -> TensorRef:
    """A tensor of a pickle; views that repeat a small storage many times are bombs, not weights."""
    name = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        raise Refused(f"{path.name} holds a tensor that is no plain array of real numbers", f"its dtype is {name}")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise Refused(f"{path.name} holds a tensor larger than its stored values", f"its shape is {list(tensor.shape)}")
    return TensorRef(tuple(tensor.shape), _TORCH_NAMES.get(name, name), partial(_torch_to_numpy, tensor))


def _torch_to_numpy(tensor: torch.Tensor) -> Array:
    values: Array = tensor.detach().to(torch.float32).contiguous().numpy()
    return values
