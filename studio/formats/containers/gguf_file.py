"""Open GGUF files: key-value pairs and tensors of llama.cpp, by their header; values are read on demand.

The header is read here and not by the `gguf` package, whose reader follows a hostile file's array lengths without end;
the package unpacks quantised values. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from studio.core.errors import Refused
from studio.core.source_file import SourceFile
from studio.core.tensors import Array, TensorFile, TensorRef, stored

MAGIC = b"GGUF"
_MAX_ENTRIES = 200_000
_MAX_TEXT = 1 << 20
_MAX_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
# Value types of the header -> struct's codes.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# ggml's tensor types that adapters are written in.
_PLAIN = {0: ("F32", 4), 1: ("F16", 2), 30: ("BF16", 2)}
_Q8_0, _Q8_0_BLOCK, _Q8_0_BYTES = 8, 32, 34


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def open_gguf(path: Path, keep: object = None) -> TensorFile:
    """The tensors in torch's order of dimensions (ggml prints them reversed), and single values as text.

    `keep` is held as long as any of its tensors, as by `open_tensors`.
    Raises `Refused` for anything that is not a whole little-endian GGUF file of version 2 or 3.
    """
    source = SourceFile.of(path, keep)
    try:
        with source.open() as file:
            return _open(source, _Header(path.name, file, source.size))
    except (struct.error, UnicodeDecodeError) as error:
        raise Refused(f"{path.name} is not a whole GGUF file", str(error), "download it again") from error


@dataclass(frozen=True, slots=True, eq=False)
class _Header:
    """Reads the header's values in turn, never beyond the file."""

    name: str
    file: BinaryIO
    size: int

    def number(self, code: str) -> int:
        return int(self.value(code))

    def value(self, code: str) -> float:
        found: float = struct.unpack(f"<{code}", self.file.read(struct.calcsize(code)))[0]
        return found

    def text(self) -> str:
        length = self.number("Q")
        if length > min(_MAX_TEXT, self.size):
            raise self.broken(f"a text of {length} bytes")
        return self.file.read(length).decode("utf-8")

    def count(self, what: str) -> int:
        found = self.number("Q")
        if found > _MAX_ENTRIES:
            raise self.broken(f"it names {found} {what}")
        return found

    def scalar(self, kind: int) -> str:
        """One value as text; arrays are passed over."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            self._skip_array()
            return ""
        if kind not in _SCALARS:
            raise self.broken(f"a value of type {kind}")
        return str(self.value(_SCALARS[kind]))

    def _skip_array(self) -> None:
        kind, length = self.number("I"), self.number("Q")
        if kind == _STRING and length <= self.size // 8:
            for _ in range(length):
                self.text()
            return
        if kind not in _SCALARS or length * struct.calcsize(_SCALARS[kind]) > self.size:
            raise self.broken(f"an array of {length} values of type {kind}")
        self.file.seek(length * struct.calcsize(_SCALARS[kind]), os.SEEK_CUR)

    def broken(self, why: str) -> Refused:
        return Refused(f"{self.name} is not a whole GGUF file", why, "download it again")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor as the header lists it."""

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class _Quantised:
    """Reads one tensor of type Q8_0 as float32."""

    source: SourceFile
    shape: tuple[int, ...]
    start: int
    size: int

    def __call__(self) -> Array:
        import gguf

        packed = self.source.read(self.start, self.size)
        values = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
        return np.asarray(values, np.float32).reshape(self.shape)


def _open(source: SourceFile, header: _Header) -> TensorFile:
    if header.file.read(len(MAGIC)) != MAGIC:
        raise header.broken("it does not begin with GGUF")
    version = header.number("I")
    if version not in (2, 3):
        raise header.broken(f"its version is {version}, 2 and 3 are read (little-endian)")
    tensors, pairs = header.count("tensors"), header.count("values")
    metadata: dict[str, str] = {}
    for _ in range(pairs):
        key = header.text()
        metadata[key] = header.scalar(header.number("I"))
    entries = dict(_entry(header) for _ in range(tensors))
    if len(entries) != tensors:
        raise header.broken("it names a tensor twice")
    alignment = metadata.get("general.alignment", "32")
    if not alignment.isdigit() or not 0 < int(alignment) <= 1 << 16:
        raise header.broken(f"its alignment is {alignment[:20]!r}")
    start = -(-header.file.tell() // int(alignment)) * int(alignment)
    found = {name: _ref(source, header, start, name, entry) for name, entry in entries.items()}
    return TensorFile(found, metadata, (source,))


def _entry(header: _Header) -> tuple[str, _Entry]:
    name, dimensions = header.text(), header.number("I")
    if dimensions > _MAX_DIMENSIONS:
        raise header.broken(f"{name[:80]} has {dimensions} dimensions")
    sizes = [header.number("Q") for _ in range(dimensions)]
    return name, _Entry(tuple(reversed(sizes)), header.number("I"), header.number("Q"))


def _ref(source: SourceFile, header: _Header, data: int, name: str, entry: _Entry) -> TensorRef:
    start, numbers = data + entry.offset, math.prod(entry.shape)
    whole_blocks = bool(entry.shape) and entry.shape[-1] % _Q8_0_BLOCK == 0
    if entry.kind in _PLAIN:
        label, width = _PLAIN[entry.kind]
        size = numbers * width
    elif entry.kind == _Q8_0 and whole_blocks:
        label, size = "Q8_0", numbers // _Q8_0_BLOCK * _Q8_0_BYTES
    else:
        what = f"{header.name} stores a tensor in a way that adapters do not"
        why = f"{name[:80]} has shape {list(entry.shape)} and ggml's type {entry.kind}"
        raise Refused(what, why, "write it as f32, f16 or q8_0")
    if start + size > header.size:
        raise header.broken(f"{name[:80]} reaches beyond its end")
    if entry.kind in _PLAIN:
        return stored(source, label, start, entry.shape)
    return TensorRef(entry.shape, label, _Quantised(source, entry.shape, start, size))
