"""Write `pytorch_lora_weights.safetensors` as diffusers saves it, with `lora_adapter_metadata` in its header.

Every module gets one rank r = lora_alpha (zeros fill up, the scaling is folded into B): releases that knew a single
alpha and those that read the header agree then. Source: formats.md section 4.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from studio.adapter import Adapter
from studio.formats.limits import require_kinds, require_no_extras, require_pipeline
from studio.formats.pairs import folded, stored_shapes
from studio.formats.safetensors_file import SaveDtype, write_safetensors
from studio.tensors import Array

WEIGHTS = "pytorch_lora_weights.safetensors"
TITLE = "diffusers' format"


def check(adapter: Adapter, base_config: Mapping[str, Any]) -> None:
    """Raise `LoomError` for what the format cannot hold."""
    require_pipeline(adapter, TITLE)
    require_kinds(adapter, TITLE, ("linear", "conv"))
    require_no_extras(adapter, TITLE)


def write(adapter: Adapter, folder: Path, dtype: SaveDtype, base_config: Mapping[str, Any]) -> None:
    """Write the weights into an existing folder."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in adapter.modules.items():
        shapes[f"{name}.lora_A.weight"], shapes[f"{name}.lora_B.weight"] = stored_shapes(module, adapter.rank)
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(_configs(adapter), sort_keys=True)}
    write_safetensors(folder / WEIGHTS, shapes, _values(adapter, shapes), dtype, metadata)


def _values(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Array]]:
    for name, module in adapter.modules.items():
        a, b = folded(module, adapter.rank)
        down, up = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        yield down, a.reshape(shapes[down])
        yield up, b.reshape(shapes[up])


def _configs(adapter: Adapter) -> dict[str, Any]:
    """PEFT's config of each component, its fields prefixed with the component."""
    targets: dict[str, list[str]] = {}
    for name in adapter.modules:
        component, _, path = name.partition(".")
        targets.setdefault(component, []).append(path)
    return {
        f"{component}.{field}": value
        for component, paths in targets.items()
        for field, value in _config(adapter.rank, paths).items()
    }


def _config(rank: int, paths: list[str]) -> dict[str, Any]:
    return {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "lora_dropout": 0.0, "target_modules": sorted(paths)}
