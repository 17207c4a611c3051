"""Factors stored in 8 bits with a scale beside them, read exactly: value times scale.

Spellings of the scale are those of ComfyUI (`scale_weight`) and of diffusers and compressed-tensors (`weight_scale`),
one number for a tensor or one for each of its rows. Without a scale, 8-bit floats may be plain numbers, or scaled ones
that lost it: the latter fill the range of the format, which no plain LoRA does, and are refused when they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from studio.core.account import TensorRow
from studio.core.errors import Refused
from studio.core.tensors import Array, TensorRef
from studio.formats.containers.bundle import Bundle

# The largest number of each 8-bit float, under safetensors' name and torch's.
_FLOAT8 = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0, "float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}
_INT8 = ("I8", "int8")
_ENDINGS = (".scale_weight", ".weight_scale", ".scale", "_scale")
# Scales of what flows into a layer, and the mark of a file with scales: nothing of the weights depends on them.
_OF_INPUTS = (".scale_input", ".input_scale")
_MARK = "scaled_fp8"


@dataclass(frozen=True, slots=True, eq=False)
class Dequantised:
    """A bundle whose scaled factors read as plain numbers. `scales` gives each scale's factor, `left_out` what else was
    taken out of the bundle, `unscaled` the 8-bit floats without a scale.
    """

    bundle: Bundle
    scales: Mapping[str, str]
    left_out: tuple[TensorRow, ...] = ()
    unscaled: tuple[str, ...] = ()


def dequantised(bundle: Bundle) -> Dequantised:
    """The bundle with its scales applied; headers only. Raises `Refused` for a scale whose shape is not known here."""
    tensors = bundle.tensors
    stored = [key for key, tensor in tensors.items() if tensor.dtype in (*_FLOAT8, *_INT8) and tensor.size > 1]
    if not stored:
        return Dequantised(bundle, {})
    scales = {scale: key for key in stored for scale in _scales_of(key, tensors)}
    unscaled = tuple(key for key in stored if tensors[key].dtype in _FLOAT8 and key not in scales.values())
    left_out = tuple(
        TensorRow(key, "left out", why="that scale no weight", is_harmless=True)
        for key in tensors
        if key.endswith(_OF_INPUTS) or key.rpartition(".")[2] == _MARK
    )
    plain = {key: tensor for key, tensor in tensors.items() if key not in scales}
    plain |= {key: _scaled(tensors[key], tensors[scale]) for scale, key in scales.items()}
    plain |= {key: replace(tensors[key], load=_Unscaled(tensors[key])) for key in unscaled}
    for row in left_out:
        plain.pop(row.key)
    return Dequantised(replace(bundle, file=replace(bundle.file, tensors=plain)), scales, left_out, unscaled)


@dataclass(frozen=True, slots=True, eq=False)
class _Scaled:
    """Reads a factor times its scale, one for all or one for each row."""

    factor: TensorRef
    scale: TensorRef

    def __call__(self) -> Array:
        rows = (self.scale.size, *(1 for _ in self.factor.shape[1:])) if self.scale.size > 1 else ()
        return np.asarray(self.factor.read() * self.scale.read().reshape(rows), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Unscaled:
    """Reads 8-bit floats as they are; refuses those that fill their format's range."""

    factor: TensorRef

    def __call__(self) -> Array:
        values = self.factor.read()
        if np.abs(values).max() > _FLOAT8[self.factor.dtype] / 2:
            raise Refused(
                f"{self.factor.key} is stored in scaled 8-bit numbers",
                f"its values fill the range of {self.factor.dtype}, and its scale is not in the file",
                "save it as float16 or bfloat16",
            )
        return values


def _scales_of(key: str, tensors: Mapping[str, TensorRef]) -> Iterator[str]:
    """The one scale beside a factor; of several none is taken, so that the others are not understood."""
    stem = key.removesuffix(".weight")
    found = [stem + ending for ending in _ENDINGS if stem + ending in tensors]
    if len(found) == 1:
        yield found[0]


def _scaled(factor: TensorRef, scale: TensorRef) -> TensorRef:
    rows = factor.shape[0]
    if scale.size != 1 and (scale.size != rows or scale.shape[0] != rows):
        why = f"{scale.key} has shape {list(scale.shape)}, the factor {list(factor.shape)}"
        raise Refused(f"{factor.key} is scaled in a way that is not known", why, "save it as float16 or bfloat16")
    return replace(factor, load=_Scaled(factor, scale))
