"""Write a GGUF adapter for llama.cpp: one rank, alpha = rank, every scaling folded into B.

Llama's kin get the rows of q and k in llama.cpp's order, for which the size of the base's heads must be known; it is
written beside the alpha, so that the file can be read back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from studio.core.adapter import Adapter
from studio.core.errors import LoomError
from studio.core.hub_ids import hub_id_or_none
from studio.core.tensors import Array
from studio.formats.containers.safetensors_file import SaveDtype, encode, sync_file
from studio.formats.dialects import gguf as dialect
from studio.formats.modules.base_config import head_size
from studio.formats.modules.heads import permute_rows
from studio.formats.modules.pairs import folded
from studio.formats.writers.registry import Writer

WEIGHTS = "adapter.gguf"
# Model types of transformers that llama.cpp calls otherwise.
_ARCHITECTURES = {"mistral": "llama", "phi": "phi2", "gemma3_text": "gemma3"}
_STORED_AS: Mapping[SaveDtype, str] = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}


def check(adapter: Adapter, base_config: Mapping[str, Any]) -> None:
    """Raise `LoomError` for layers that have no name there, and where the base's config does not say what it needs."""
    stored = _stored_names(adapter, architecture_of(base_config))
    if _permutes(base_config, stored):
        rows, head = _permuted_rows(adapter, stored), head_size(base_config)
        if head is None or head % 2 or any(count % head for count in rows):
            raise LoomError(
                "GGUF reorders the rows of q and k by the base's heads",
                f"{rows} rows do not divide by its config's head size, {head}",
                "give the config.json of the adapter's own base",
            )


def write(adapter: Adapter, folder: Path, dtype: SaveDtype, base_config: Mapping[str, Any]) -> None:
    """Write the adapter into an existing folder, one module at a time."""
    import gguf

    architecture = architecture_of(base_config)
    stored = _stored_names(adapter, architecture)
    head = head_size(base_config) if _permutes(base_config, stored) else None
    writer = gguf.GGUFWriter(None, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(adapter.rank))
    base = hub_id_or_none(adapter.base)
    if base:
        writer.add_base_model_count(1)
        writer.add_base_model_repo_url(0, dialect.HUB + base)
    if head:
        writer.add_key_length(head)
    kind = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    for name, shape in _shapes(adapter, stored).items():
        item = np.dtype(_STORED_AS[dtype])
        size = int(np.prod(shape)) * item.itemsize
        writer.add_tensor_info(name, shape, item, size, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file(folder / WEIGHTS)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for shape, values in _values(adapter, stored, head):
        writer.write_tensor_data(np.frombuffer(encode(values, dtype), _STORED_AS[dtype]).reshape(shape))
    writer.close()
    sync_file(folder / WEIGHTS)


GGUF = Writer(
    "gguf",
    title="GGUF",
    about="for llama.cpp",
    files=(WEIGHTS,),
    dialect="gguf",
    write=write,
    tested_with="gguf",
    kinds=("linear", "embedding"),
    models="language models",
    check=check,
    besides="architectures that llama.cpp rearranges",
    needs_base_config=True,
)


def architecture_of(base_config: Mapping[str, Any]) -> str:
    """llama.cpp's name of a base's architecture; raises `LoomError` where its config does not say."""
    model_type = base_config.get("model_type")
    if not isinstance(model_type, str):
        why = "weights are named and ordered by the architecture"
        raise LoomError("GGUF needs the base model's config.json", why, "give it as base_config")
    return _ARCHITECTURES.get(model_type, model_type)


def _permutes(base_config: Mapping[str, Any], stored: Mapping[str, str]) -> bool:
    return architecture_of(base_config) in dialect.PERMUTED and any(map(dialect.is_permuted, stored.values()))


def _permuted_rows(adapter: Adapter, stored: Mapping[str, str]) -> list[int]:
    rows = {module.d_out for name, module in adapter.modules.items() if dialect.is_permuted(stored[name])}
    return sorted(rows)


def _stored_names(adapter: Adapter, architecture: str) -> dict[str, str]:
    """GGUF's name of every module."""
    table = dialect.names_of(architecture).to_gguf
    found = {name: dialect.renamed(name, table) for name in adapter.modules}
    odd = next((name for name, stored in found.items() if stored is None), None)
    if odd is not None:
        raise LoomError(f"GGUF has no name for {odd}", f"the architecture is {architecture}", "export as PEFT")
    return {name: stored for name, stored in found.items() if stored is not None}


def _shapes(adapter: Adapter, stored: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in adapter.modules.items():
        down = (adapter.rank, module.d_in)
        shapes[f"{stored[name]}.weight.lora_a"] = down[::-1] if module.kind == "embedding" else down
        shapes[f"{stored[name]}.weight.lora_b"] = (module.d_out, adapter.rank)
    return shapes


def _values(adapter: Adapter, stored: Mapping[str, str], head: int | None) -> Iterator[tuple[tuple[int, ...], Array]]:
    for name, module in adapter.modules.items():
        a, b = folded(module, adapter.rank)
        a = a.T if module.kind == "embedding" else a
        b = permute_rows(b, head) if head and dialect.is_permuted(stored[name]) else b
        yield a.shape, a
        yield b.shape, b
