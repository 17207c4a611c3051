"""Write an MLX folder: adapters.safetensors with transposed pairs, and the adapter_config.json that mlx-lm reads.

mlx-lm gives every layer one rank and one scale: zeros fill up to the largest rank, the scaling is folded, scale is 1.
Source: ml-explore/mlx-lm, tuner/utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from studio.core.adapter import Adapter
from studio.core.hub_ids import hub_id_or_none
from studio.core.tensors import Array
from studio.formats.containers.bundle import CONFIG
from studio.formats.containers.safetensors_file import SaveDtype, write_json, write_safetensors
from studio.formats.modules.pairs import folded
from studio.formats.writers.registry import Writer

WEIGHTS = "adapters.safetensors"
_ALL_LAYERS = -1
_IN_LAYER = re.compile(r".*?\.\d+\.")  # what stands before a module's own path in its layer


def write(adapter: Adapter, folder: Path, dtype: SaveDtype, base_config: Mapping[str, Any]) -> None:
    """Write weights and config into an existing folder."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in adapter.modules.items():
        shapes[f"{name}.lora_a"] = (module.d_in, adapter.rank)
        shapes[f"{name}.lora_b"] = (adapter.rank, module.d_out)
    write_safetensors(folder / WEIGHTS, shapes, _values(adapter), dtype, {"format": "mlx"})
    write_json(folder / CONFIG, config_of(adapter))


MLX = Writer(
    "mlx",
    title="MLX folder",
    about="for Apple silicon",
    files=(CONFIG, WEIGHTS),
    dialect="mlx",
    write=write,
    tested_with="mlx-lm",
    kinds=("linear", "embedding"),
    models="language models",
)


def config_of(adapter: Adapter) -> dict[str, Any]:
    """The adapter_config.json: mlx-lm names its targets by their path inside a layer."""
    keys = sorted({_IN_LAYER.sub("", name, count=1) for name in adapter.modules})
    return {
        "fine_tune_type": "lora",
        "lora_parameters": {"dropout": 0.0, "keys": keys, "rank": adapter.rank, "scale": 1.0},
        "model": hub_id_or_none(adapter.base),
        "num_layers": _ALL_LAYERS,
    }


def _values(adapter: Adapter) -> Iterator[tuple[str, Array]]:
    for name, module in adapter.modules.items():
        a, b = folded(module, adapter.rank)
        yield f"{name}.lora_a", a.T
        yield f"{name}.lora_b", b.T
