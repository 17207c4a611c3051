"""Write `pytorch_lora_weights.safetensors` as diffusers saves it.

Every module gets one rank r = lora_alpha (zeros fill up, the scaling is folded into B): releases that knew a single
alpha and those that read the header agree then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from studio.core.adapter import Adapter
from studio.core.tensors import Array
from studio.formats.containers.safetensors_file import SaveDtype, write_safetensors
from studio.formats.modules.pairs import folded, stored_shapes
from studio.formats.writers.registry import Writer

WEIGHTS = "pytorch_lora_weights.safetensors"


def write(adapter: Adapter, folder: Path, dtype: SaveDtype, base_config: Mapping[str, Any]) -> None:
    """Write the weights into an existing folder."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in adapter.modules.items():
        shapes[f"{name}.lora_A.weight"], shapes[f"{name}.lora_B.weight"] = stored_shapes(module, adapter.rank)
    write_safetensors(folder / WEIGHTS, shapes, _values(adapter, shapes), dtype, _header(adapter))


DIFFUSERS = Writer(
    "diffusers",
    title="diffusers",
    about="one file, for image pipelines",
    files=(WEIGHTS,),
    dialect="diffusers",
    write=write,
    tested_with="diffusers",
    kinds=("linear", "conv"),
    models="image pipelines",
)


def _values(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Array]]:
    for name, module in adapter.modules.items():
        a, b = folded(module, adapter.rank)
        down, up = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        yield down, a.reshape(shapes[down])
        yield up, b.reshape(shapes[up])


def _header(adapter: Adapter) -> dict[str, str]:
    """PEFT's config of each component in the metadata, its fields prefixed with the component.

    An adapter that reaches text encoders gets none: since transformers 5 their paths have lost `text_model`, which
    diffusers 0.42 mends in the keys but not in a header's target_modules, and it wants all components or none.
    """
    targets: dict[str, list[str]] = {}
    for name in adapter.modules:
        component, _, path = name.partition(".")
        targets.setdefault(component, []).append(path)
    if any(component.startswith("text_encoder") for component in targets):
        return {"format": "pt"}
    configs = {
        f"{component}.{field}": value
        for component, paths in targets.items()
        for field, value in _config(adapter.rank, paths).items()
    }
    return {"format": "pt", "lora_adapter_metadata": json.dumps(configs, sort_keys=True)}


def _config(rank: int, paths: list[str]) -> dict[str, Any]:
    return {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "lora_dropout": 0.0, "target_modules": sorted(paths)}
