"""Read MLX adapters: `model.layers.0.self_attn.q_proj.lora_a` stored as (d_in, rank), `lora_b` as (rank, d_out).

`scale` in the config is the multiplier itself, not alpha.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from studio.core.adapter import Adapter, Finding, LoraModule
from studio.core.errors import Refused
from studio.core.tensors import TensorRef
from studio.formats.containers.bundle import Bundle
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.other_kinds import no_pairs
from studio.formats.modules.pairs import StoredPair, require_both_halves

_DEFAULT_SCALE = 20.0  # mlx-lm's; its predecessor's example fixed 2.0, and no file says which


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
    scale = _scale(config)
    findings = [] if scale is not None else [Finding("warn", _NO_SCALE)]
    if extras:
        some = ", ".join(list(extras)[:4])
        findings.append(
            Finding("warn", f"{len(extras)} full tensors are stored with the LoRA ({some}) and are not merged")
        )
    base = config.get("model")
    return Adapter(
        name=bundle.name,
        modules={name: _module(name, down, ups[name], scale or _DEFAULT_SCALE) for name, down in downs.items()},
        base=base if isinstance(base, str) and base else None,
        findings=tuple(findings),
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

_NO_SCALE = (
    f"no config says the scale: taken as {_DEFAULT_SCALE:g}, mlx-lm's default; files of the first MLX example (2023) "
    "meant 2, weigh those by 0.1"
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


def _module(name: str, down: TensorRef, up: TensorRef, scale: float) -> LoraModule:
    if len(down.shape) == 3:
        raise Refused(
            "this is LoRA on fused mixture-of-experts layers, not plain LoRA", f"{name} has shape {list(down.shape)}"
        )
    if len(down.shape) != 2 or len(up.shape) != 2 or down.shape[1] != up.shape[0] or 0 in down.shape + up.shape:
        raise Refused(f"{name} is not a low-rank pair", f"its shapes are {list(down.shape)} and {list(up.shape)}")
    return LoraModule(
        name=name,
        rank=down.shape[1],
        d_in=down.shape[0],
        d_out=up.shape[1],
        scaling=scale,
        load=StoredPair(down, up, transposed=True),
        kind="embedding" if name.endswith("embed_tokens") else "linear",
        dtype=down.dtype,
    )


def _scale(config: Mapping[str, Any]) -> float | None:
    parameters = config.get("lora_parameters")
    if parameters is None:
        return None
    value = parameters.get("scale", _DEFAULT_SCALE) if isinstance(parameters, dict) else parameters
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e12 or not math.isfinite(value):
        raise Refused(
            f"the config's lora_parameters are {str(parameters)[:60]!r}", "expected an object with a number as scale"
        )
    return float(value)
