"""Read LoRA-ViT, SAMed and Sam_LoRA files: numbered pairs `w_a_000`, `w_b_000`, two for each fused qkv layer.

Even numbers adapt the query, odd ones the value part of `qkv`. Both become one pair of rank 2r on the fused layer,
exactly: dW = [[B_q A_q], [0], [B_v A_v]]. Scaling is 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from studio.core.adapter import Adapter, Finding, LoraModule
from studio.core.errors import Refused
from studio.core.tensors import Array, TensorRef
from studio.formats.containers.bundle import Bundle
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.pairs import require_both_halves, stored_module
from studio.formats.modules.scaling import said

_KEY = re.compile(r"w_([ab])_(\d{1,4})")
_SCALING = said(1.0, "LoRA-ViT has no alpha")


def sniff(bundle: Bundle) -> str | None:
    """Evidence of numbered pairs, or None."""
    found = [key for key in bundle.keys if _KEY.fullmatch(key)]
    return f"numbered pairs such as {found[0]}" if found else None


def read(bundle: Bundle) -> Adapter:
    """Join the query and value pairs of every block. Raises `Refused` where a half is missing."""
    halves: dict[str, dict[int, TensorRef]] = {"a": {}, "b": {}}
    extras: dict[str, TensorRef] = {}
    for key, tensor in bundle.tensors.items():
        match = _KEY.fullmatch(key)
        if match:
            halves[match[1]][int(match[2])] = tensor
        else:
            extras[key] = tensor
    require_both_halves(
        {f"pair {i:03}": t for i, t in halves["a"].items()}, {f"pair {i:03}": t for i, t in halves["b"].items()}
    )
    modules = _join(halves["a"], halves["b"])
    text = "the file names neither base nor layers: pairs are taken as query and value of each block in turn"
    return Adapter(
        name=bundle.name,
        modules=modules,
        findings=(Finding("note", text),),
        extras=extras,
        metadata=bundle.metadata,
        path=bundle.path,
    )


SAM = Dialect(
    "sam",
    title="LoRA-ViT, SAMed, Sam_LoRA",
    source="JamesQFreeman/LoRA-ViT, save_lora_parameters",
    keys="`w_a_000`, `w_b_000`",
    scaling="1",
    names="`image_encoder.blocks.N.attn.qkv`: the query and value pairs joined to one of rank 2r",
    sniff=sniff,
    read=read,
)


@dataclass(frozen=True, slots=True, eq=False)
class _QueryAndValue:
    """Reads the joined pair: A (2r, d), B (3d, 2r) with the key's rows zero."""

    query: LoraModule
    value: LoraModule

    def __call__(self) -> tuple[Array, Array]:
        (a_q, b_q), (a_v, b_v) = self.query.load(), self.value.load()
        width, r = b_q.shape
        b = np.zeros((3 * width, r + b_v.shape[1]), np.float32)
        b[:width, :r] = b_q
        b[2 * width :, r:] = b_v
        return np.vstack([a_q, a_v]), b


def _join(downs: Mapping[int, TensorRef], ups: Mapping[int, TensorRef]) -> dict[str, LoraModule]:
    if sorted(downs) != list(range(len(downs))) or len(downs) % 2:
        raise Refused(
            "the numbered pairs have gaps", f"{len(downs)} pairs, the last is {max(downs)}", "save the adapter again"
        )
    modules: dict[str, LoraModule] = {}
    for block in range(len(downs) // 2):
        name = f"image_encoder.blocks.{block}.attn.qkv"
        query, value = (stored_module(name, downs[i], ups[i], _SCALING) for i in (2 * block, 2 * block + 1))
        if query.shape != value.shape:
            raise Refused(f"{name}: query and value differ in shape", f"{query.shape} and {value.shape}")
        modules[name] = LoraModule(
            name=name,
            rank=query.rank + value.rank,
            d_in=query.d_in,
            d_out=3 * query.d_out,
            scaling=_SCALING.value,
            load=_QueryAndValue(query, value),
            dtype=query.dtype,
            origin="query and value halves",
            keys=query.keys + value.keys,
            source=_SCALING.source,
        )
    return modules
