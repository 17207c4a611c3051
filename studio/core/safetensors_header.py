"""The header of a safetensors file, checked by the rules of the format's own library, which would map the whole file.

8 bytes hold the header's length, then comes a JSON object of (dtype, shape, data_offsets) by tensor, then the values:
back to back, in the order of the offsets, to the end of the file. Stricter than the library where a name is given
twice, an entry is a list, or an empty tensor has sizes of no machine.
Source: huggingface/safetensors, safetensors/src/tensor.rs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from studio.core.text import is_unicode

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
_LARGEST = 2**59  # sizes and numbers of elements beyond this are of no file; numpy counts bytes in 63 bits
_BITS: Mapping[str, int] = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor: its format by safetensors' name, its shape, and its first and last byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors in the order in which the header lists them, and the file's own metadata."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def read_header(file: BinaryIO, size: int) -> Header:
    """Read and check the header of a file of `size` bytes; raises `ValueError` that says which rule it breaks."""
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > min(_MAX_HEADER_BYTES, size - _LENGTH_BYTES):
        raise ValueError(f"its header would be {length} bytes long")
    text = file.read(length).decode()
    try:
        loaded = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    if not isinstance(loaded, dict):
        raise ValueError("its header is no object")
    metadata = loaded.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata is no object of texts")
    if not all(map(is_unicode, (*loaded, *metadata, *metadata.values()))):
        raise ValueError("its header holds text that is not Unicode")
    first = _LENGTH_BYTES + length
    entries = {name: _entry(name, found, first) for name, found in loaded.items()}
    _require_back_to_back(entries, first, size)
    return Header(entries, metadata)


def _entry(name: str, found: Any, first: int) -> Entry:
    try:
        dtype, shape, (start, end) = found["dtype"], found["shape"], found["data_offsets"]
        sizes = (*shape, start, end)
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{name[:80]} does not say its dtype, shape and data_offsets") from None
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"{name[:80]} has the unknown dtype {str(dtype)[:40]}")
    if not isinstance(shape, list) or not all(type(number) is int and 0 <= number < _LARGEST for number in sizes):
        raise ValueError(f"{name[:80]} has sizes that are no whole numbers")
    if math.prod(number for number in shape if number) >= _LARGEST:
        raise ValueError(f"{name[:80]} is larger than any file")
    if math.prod(shape) * _BITS[dtype] != 8 * (end - start):
        raise ValueError(f"{name[:80]} has {end - start} bytes, not what its shape {shape[:8]} of {dtype} takes")
    return Entry(dtype, tuple(shape), first + start, first + end)


def _require_back_to_back(entries: Mapping[str, Entry], first: int, size: int) -> None:
    end = first
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != end:
            raise ValueError(f"{name[:80]} does not begin where the tensor before it ends")
        end = entry.end
    if end != size:
        raise ValueError(f"its tensors end at byte {end}, the file at {size}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header names a tensor twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"its header holds {name}")
