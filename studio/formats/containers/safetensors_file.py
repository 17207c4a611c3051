"""Write safetensors one tensor at a time, so that an export never holds more than one module in memory.

Layout: 8-byte little-endian header length, JSON header, then the values back to back.
Source: https://github.com/huggingface/safetensors (Format).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from studio.core.tensors import Array

SaveDtype = Literal["float32", "float16", "bfloat16"]
DTYPE_CODES: Mapping[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    values: Iterable[tuple[str, Array]],
    dtype: SaveDtype,
    metadata: Mapping[str, str],
) -> None:
    """Write and fsync a safetensors file; `values` must come in the order of `shapes`."""
    item = 4 if dtype == "float32" else 2
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for key, shape in shapes.items():
        end = offset + item * math.prod(shape)
        header[key] = {"dtype": DTYPE_CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (key, shape), (given, array) in zip(shapes.items(), values, strict=True):
            if key != given or array.shape != shape:
                raise ValueError(f"expected {key} {shape}, got {given} {array.shape}")
            file.write(encode(array, dtype))
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write and fsync a JSON object, its keys sorted."""
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Make a file that another library wrote durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def encode(array: Array, dtype: SaveDtype) -> bytes:
    """Little-endian bytes of an array in one of the three number formats; bfloat16 rounds to nearest, ties to even."""
    if dtype == "float32":
        return np.ascontiguousarray(array, "<f4").tobytes()
    if dtype == "float16":
        with np.errstate(over="ignore"):  # the comparison after writing finds an overflow and says where
            return np.ascontiguousarray(array, "<f2").tobytes()
    bits = np.ascontiguousarray(array, "<f4").view("<u4")
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet = np.isnan(array)  # rounding could carry a NaN into infinity
    return np.where(quiet, 0x7FC0, rounded).astype("<u2").tobytes()
