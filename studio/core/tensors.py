"""Tensors that stay on disk until they are read.

A `TensorRef` knows shape and dtype from the file's header; `read()` gives float32, from the file that was opened or not
at all (see `studio.core.source_file`). Nothing here runs code from a file: safetensors and npz hold numbers only, and
torch pickles pass through `weights_only=True`.
"""

from __future__ import annotations

import math
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

from studio.core.errors import LoomError, Refused
from studio.core.late import torch
from studio.core.safetensors_header import Entry, read_header
from studio.core.source_file import SourceFile

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
# How the values of a format lie in a file; bfloat16 is the upper half of a float32, float8 is torch's to read.
_STORED_AS = {**_NUMPY_DTYPES, "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1"}
_TORCH_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
_MAX_TENSORS = 200_000
_MAX_NPZ_RATIO = 100
_LFS_MARK = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True, eq=False)
class TensorRef:
    """Shape and dtype of a stored tensor, and how to read it; `key` is its name in the file, where it has one."""

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Array]
    key: str = ""

    def read(self) -> Array:
        """The values as float32; writing to them never reaches the file.

        Raises `Changed` where the file is no longer the one that was opened.
        """
        return self.load()

    def rows(self, first: int, last: int) -> Array:
        """The values of a range of the first dimension, without reading the others where the file allows it."""
        return self.load.rows(first, last) if isinstance(self.load, _Stored) else self.load()[first:last]

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
    """All tensors by key, the file's own metadata, and the file; several where a checkpoint is in shards."""

    tensors: Mapping[str, TensorRef]
    metadata: Mapping[str, str] = field(default_factory=dict)
    files: tuple[SourceFile, ...] = ()


def in_memory(values: Array, dtype: str = "F32") -> TensorRef:
    """Wrap an array that is already here."""
    return TensorRef(tuple(values.shape), dtype, partial(np.asarray, values))


def open_tensors(path: Path, keep: object = None) -> TensorFile:
    """Open a weights file by what it contains, not by its suffix.

    `keep` is held as long as any of its tensors: the temporary folder that the file lies in.
    Raises `Refused` for Git-LFS pointers, empty or truncated files, and unknown content.
    """
    source = SourceFile.of(path, keep)
    with source.open() as file:
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
        return _open_safetensors(source)
    if head[:4] == b"PK\x03\x04":
        return _open_npz(source) if path.suffix.lower() == ".npz" else _open_pickle(source)
    if head[:1] == b"\x80" or path.suffix.lower() in (".bin", ".pt", ".pth"):
        return _open_pickle(source)
    return _open_safetensors(source)


def open_safetensors(path: Path) -> TensorFile:
    """Open a safetensors file: its header is checked, the values stay on disk. Raises `Refused` for any other file."""
    return _open_safetensors(SourceFile.of(path))


def _open_safetensors(source: SourceFile) -> TensorFile:
    name = source.path.name
    if source.size < 8:
        why = "a safetensors file starts with an 8-byte length"
        raise Refused(f"{name} holds {source.size} bytes", why, "download or save it again")
    try:
        with source.open() as file:
            header = read_header(file, source.size)
    except ValueError as error:
        raise Refused(f"{name} is not a whole safetensors file", str(error), "download or save it again") from error
    if len(header.entries) > _MAX_TENSORS:
        raise Refused(f"{name} names {len(header.entries)} tensors", f"the limit is {_MAX_TENSORS}")
    tensors = {key: _stored_entry(source, entry) for key, entry in header.entries.items()}
    return TensorFile(tensors, header.metadata, (source,))


def stored(source: SourceFile, dtype: str, offset: int, shape: tuple[int, ...]) -> TensorRef:
    """A tensor of plain numbers at an offset of a file, read when it is asked for; dtype is safetensors' name."""
    return TensorRef(shape, dtype, _Stored(source, dtype, offset, shape))


def _open_npz(source: SourceFile) -> TensorFile:
    """A numpy zip by its members' headers; object arrays (pickles) are refused by numpy itself."""
    name = source.path.name
    try:
        with source.open() as file, zipfile.ZipFile(file) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            if sum(info.file_size for info in members) > _MAX_NPZ_RATIO * source.size:
                raise Refused(f"{name} unpacks to more than {_MAX_NPZ_RATIO} times its size")
            names = [info.filename.removesuffix(".npy") for info in members]
            if len(set(names)) != len(names) or len(names) > _MAX_TENSORS:
                raise Refused(f"{name} names a tensor twice, or too many", next="save it again with numpy.savez")
            return TensorFile({key: _npz_ref(source, archive, key) for key in names}, files=(source,))
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise _broken_npz(source, error) from error


def _open_pickle(source: SourceFile) -> TensorFile:
    """A torch file through the weights-only loader; a list of tensors gets its positions as keys."""
    name = source.path.name
    try:
        with source.open() as file:  # given the path, torch would go by its suffix
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except LoomError:
        raise
    except Exception as error:  # the unpickler raises many types; any of them means "not plain tensors"
        reason = _unpickling_trouble(error)
        next_step = "convert it to safetensors on a machine that trusts it"
        raise Refused(f"{name} cannot be read as plain tensors", reason, next_step) from error
    if isinstance(loaded, (list, tuple)):
        loaded = {str(index): value for index, value in enumerate(loaded)}
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise Refused(f"{name} holds a {type(loaded).__name__}", "expected a state dict of tensors")
    found = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
    if not found:
        raise Refused(f"{name} holds no tensors", "expected a state dict of tensors")
    return TensorFile({key: _from_torch(source, value) for key, value in found.items()}, files=(source,))


@dataclass(frozen=True, slots=True, eq=False)
class _Stored:
    """Reads one tensor of plain numbers, or some of its rows, as float32."""

    source: SourceFile
    dtype: str
    offset: int
    shape: tuple[int, ...]

    def __call__(self) -> Array:
        return self.rows(0, self.shape[0]) if self.shape else self._read(self.offset, ())

    def rows(self, first: int, last: int) -> Array:
        row = math.prod(self.shape[1:]) * self._stored_as.itemsize
        return self._read(self.offset + first * row, (last - first, *self.shape[1:]))

    def _read(self, offset: int, shape: tuple[int, ...]) -> Array:
        if 0 in shape:
            return np.zeros(shape, np.float32)
        raw = self.source.read(offset, math.prod(shape) * self._stored_as.itemsize).view(self._stored_as)
        if self.dtype == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32).reshape(shape)
        if self.dtype in ("F8_E4M3", "F8_E5M2"):
            kind = torch.float8_e4m3fn if self.dtype == "F8_E4M3" else torch.float8_e5m2
            return _torch_to_numpy(torch.from_numpy(raw).view(kind)).reshape(shape)
        return raw.astype(np.float32, copy=False).reshape(shape)

    @property
    def _stored_as(self) -> np.dtype[Any]:
        if self.dtype not in _STORED_AS:
            what = f"{self.source.path.name} stores a tensor as {self.dtype}"
            raise Refused(what, "that number format is not supported", "save it as float32, float16 or bfloat16")
        return np.dtype(_STORED_AS[self.dtype])


@dataclass(frozen=True, slots=True, eq=False)
class _Member:
    """Reads one member of a numpy zip as float32."""

    source: SourceFile
    name: str

    def __call__(self) -> Array:
        try:
            with self.source.open() as file, np.load(file, allow_pickle=False) as archive:
                return np.asarray(archive[self.name], np.float32)
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise _broken_npz(self.source, error) from error


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    """Gives one tensor of a torch file, which is in memory whole since it was opened, as float32."""

    source: SourceFile
    tensor: torch.Tensor

    def __call__(self) -> Array:
        self.source.require_unchanged()
        return _torch_to_numpy(self.tensor)


def _stored_entry(source: SourceFile, entry: Entry) -> TensorRef:
    return stored(source, entry.dtype, entry.start, entry.shape)


def _npz_ref(source: SourceFile, archive: zipfile.ZipFile, key: str) -> TensorRef:
    name = source.path.name
    with archive.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(member)
        held = archive.getinfo(f"{key}.npy").file_size - member.tell()
    if dtype.kind not in "fiu":
        raise Refused(f"{name} stores {key} as {dtype}", "expected numbers", "save it again with numpy.savez")
    if math.prod(shape) * dtype.itemsize > held:
        raise Refused(f"{name} is not a whole numpy archive", f"{key} is shorter than its shape {shape}")
    label = next((name for name, code in _NUMPY_DTYPES.items() if np.dtype(code) == dtype), str(dtype))
    return TensorRef(tuple(shape), label, _Member(source, key))


def _broken_npz(source: SourceFile, error: Exception) -> Refused:
    return Refused(f"{source.path.name} is not a whole numpy archive", str(error), "save it again with numpy.savez")


def _unpickling_trouble(error: Exception) -> str:
    """The first line of an error, but not torch's when it advises to let the file run its code."""
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "it holds more than plain tensors, or is damaged; what else it holds could run code"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _from_torch(source: SourceFile, tensor: torch.Tensor) -> TensorRef:
    """A tensor of a pickle; views that repeat a small storage many times are bombs, not weights."""
    file = source.path.name
    name = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        raise Refused(f"{file} holds a tensor that is not a plain array of real numbers", f"its dtype is {name}")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise Refused(f"{file} holds a tensor larger than its stored values", f"its shape is {list(tensor.shape)}")
    return TensorRef(tuple(tensor.shape), _TORCH_NAMES.get(name, name), _Loaded(source, tensor))


def _torch_to_numpy(tensor: torch.Tensor) -> Array:
    values: Array = tensor.detach().to(torch.float32).contiguous().numpy()
    return values
