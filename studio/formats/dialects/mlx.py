"""Read MLX adapters: `model.layers.0.self_attn.q_proj.lora_a` stored as (d_in, rank), `lora_b` as (rank, d_out).

`scale` in the config is the multiplier itself, not alpha.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from studio.core.account import ScalingSource
from studio.core.adapter import Adapter, Kind, LoraModule
from studio.core.errors import Refused
from studio.core.tensors import TensorRef
from studio.formats.containers.bundle import CONFIG, Bundle
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.other_kinds import no_pairs
from studio.formats.modules.pairs import require_both_halves, stored_module
from studio.formats.modules.scaling import Scaling, said

_DEFAULT_SCALE = 20.0  # mlx-lm's; its predecessor's example fixed 2.0, and no file says which
_NO_SCALE = Scaling(
    _DEFAULT_SCALE,
    ScalingSource(
        f"no config says the scale: taken as {_DEFAULT_SCALE:g}, mlx-lm's default; files of the first MLX example "
        "(2023) meant 2, weigh those by 0.1",
        is_default=True,
    ),
)

_DOWN = re.compile(r".+(?<!\.weight)\.lora_a")  # GGUF puts `.weight` before it, torchtune behind


def sniff(bundle: Bundle) -> str | None:
    """Evidence that MLX wrote it, or None."""
    config = bundle.config or {}
    if "fine_tune_type" in config or "lora_parameters" in config:
        return "adapter_config.json with MLX's lora_parameters"
    found = next((key for key in bundle.keys if _DOWN.fullmatch(key)), None)
    return f"keys such as {found}" if found else None


def read(bundle: Bundle) -> Adapter:
    """Read every pair. Raises `Refused` for DoRA, full fine-tuning and mixture-of-experts layers, by name."""
    config = bundle.config or {}
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora" or any(key.endswith(".m") for key in bundle.keys):
        name = "DoRA" if kind in ("lora", "dora") else f"{str(kind)[:40]} fine-tuning"
        raise Refused(
            f"this is {name}, not plain LoRA", "MLX stores it in its own way", "train with fine_tune_type lora"
        )
    downs, ups, extras = _halves(bundle.tensors)
    require_both_halves(downs, ups)
    if not downs:
        raise no_pairs(bundle.name, bundle.keys)
    scaling = _scaling(config)
    base = config.get("model")
    return Adapter(
        name=bundle.name,
        modules={name: _module(name, down, ups[name], scaling) for name, down in downs.items()},
        base=base if isinstance(base, str) and base else None,
        extras=extras,
        metadata=bundle.metadata,
        path=bundle.path,
    )


MLX = Dialect(
    "mlx",
    title="mlx-lm",
    source="ml-explore/mlx-lm, tuner",
    keys="`.lora_a` stored (in, rank)",
    scaling="the config's `scale`; 20 with a warning where none is",
    names="the base's own path",
    sniff=sniff,
    read=read,
    tested_with="mlx-lm",
)


def _halves(
    tensors: Mapping[str, TensorRef],
) -> tuple[dict[str, TensorRef], dict[str, TensorRef], dict[str, TensorRef]]:
    downs: dict[str, TensorRef] = {}
    ups: dict[str, TensorRef] = {}
    extras: dict[str, TensorRef] = {}
    for key, tensor in tensors.items():
        name, _, half = key.rpartition(".")
        target, label = {"lora_a": (downs, name), "lora_b": (ups, name)}.get(half, (extras, key))
        target[label] = tensor
    return downs, ups, extras


def _module(name: str, down: TensorRef, up: TensorRef, scaling: Scaling) -> LoraModule:
    if len(down.shape) == 3:
        raise Refused(
            "this is LoRA on fused mixture-of-experts layers, not plain LoRA", f"{name} has shape {list(down.shape)}"
        )
    kind: Kind = "embedding" if name.endswith("embed_tokens") else "linear"
    return stored_module(name, down, up, scaling, kind, transposed=True)


def _scaling(config: Mapping[str, Any]) -> Scaling:
    parameters = config.get("lora_parameters")
    value = parameters.get("scale") if isinstance(parameters, dict) else parameters
    if value is None:
        return _NO_SCALE
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e12 or not math.isfinite(value):
        raise Refused(
            f"the config's lora_parameters are {str(parameters)[:60]!r}", "expected an object with a number as scale"
        )
    return said(float(value), f"scale of {CONFIG}")
