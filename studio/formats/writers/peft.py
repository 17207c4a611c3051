"""Write a PEFT folder that stock PEFT loads with equal deltas.

Every module gets the same rank r = lora_alpha (factors padded with zeros, scaling folded into B), so that no pattern
has to be matched: PEFT matches names by suffix, and one pattern could catch a second module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.core.adapter import Adapter, LoraModule
from studio.core.hub_ids import hub_id_or_none
from studio.core.tensors import Array
from studio.formats.containers.bundle import CONFIG
from studio.formats.containers.safetensors_file import SaveDtype, write_json, write_safetensors
from studio.formats.modules.experts import fused_experts, stored_names
from studio.formats.modules.names import without_component
from studio.formats.modules.pairs import folded, stored_shapes
from studio.formats.writers.registry import Writer

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
# For these tasks PEFT itself adds the head to modules_to_save and then fails to load a file without one.
_HEAD_TASKS = {"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"}


def check(adapter: Adapter, base_config: Mapping[str, Any]) -> None:
    """PEFT holds whatever is read here; raises `LoomError` where some of a parameter's experts are missing."""
    fused_experts(adapter.modules)


def write(adapter: Adapter, folder: Path, dtype: SaveDtype, base_config: Mapping[str, Any]) -> None:
    """Write adapter_config.json and adapter_model.safetensors into an existing folder."""
    adapter = _inside_component(adapter)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in _plain(adapter).items():
        down, up = _keys(name, module)
        shapes[down], shapes[up] = stored_shapes(module, adapter.rank)
    for name, group in stored_names(fused_experts(adapter.modules)):
        shapes[f"{_PREFIX}{name}.lora_A.weight"], shapes[f"{_PREFIX}{name}.lora_B.weight"] = group.shapes(adapter.rank)
    for name, tensor in adapter.extras.items():
        shapes[_extra_key(name, adapter)] = tensor.shape
    write_safetensors(folder / WEIGHTS, shapes, _values(adapter, shapes), dtype, {"format": "pt"})
    write_json(folder / CONFIG, config_of(adapter))


PEFT = Writer(
    "peft",
    title="PEFT folder",
    about="for PEFT and transformers",
    files=(CONFIG, WEIGHTS),
    dialect="peft",
    write=write,
    tested_with="PEFT",
    kinds=("linear", "conv", "embedding", "expert"),
    full_tensors=True,
    check=check,
    besides="some experts of a parameter without the others",
)


def config_of(adapter: Adapter) -> dict[str, Any]:
    """The adapter_config.json of an export."""
    saved = _modules_to_save(adapter)
    task = adapter.config.get("task_type")
    parameters = sorted(group.parameter for group in fused_experts(adapter.modules))
    return {
        "alpha_pattern": {},
        "base_model_name_or_path": hub_id_or_none(adapter.base),
        "bias": "none",
        "fan_in_fan_out": bool(adapter.config.get("fan_in_fan_out", False)),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": adapter.rank,
        "lora_dropout": 0.0,
        "modules_to_save": saved or None,
        "peft_type": "LORA",
        "r": adapter.rank,
        "rank_pattern": {},
        "target_modules": sorted(_plain(adapter)) or None,
        "task_type": None if task in _HEAD_TASKS and not saved else task,
        "use_rslora": False,
        **({"target_parameters": parameters} if parameters else {}),
        **_trained_tokens(adapter),
    }


def _plain(adapter: Adapter) -> dict[str, LoraModule]:
    """The modules that have a pair of their own; experts share one by parameter."""
    return {name: module for name, module in adapter.modules.items() if module.kind != "expert"}


def _inside_component(adapter: Adapter) -> Adapter:
    """An adapter of one denoiser under that model's own paths, as PEFT wraps the denoiser and not its pipeline."""
    prefix = without_component(adapter.modules)
    return replace(
        adapter,
        modules={name.removeprefix(prefix): module for name, module in adapter.modules.items()},
        extras={name.removeprefix(prefix): tensor for name, tensor in adapter.extras.items()},
    )


def _values(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Array]]:
    for name, module in _plain(adapter).items():
        down, up = _keys(name, module)
        a, b = folded(module, adapter.rank)
        yield down, a.reshape(shapes[down])
        yield up, b.reshape(shapes[up])
    for name, group in stored_names(fused_experts(adapter.modules)):
        a, b = group.pair(adapter.rank)
        yield f"{_PREFIX}{name}.lora_A.weight", a
        yield f"{_PREFIX}{name}.lora_B.weight", b
    for name, tensor in adapter.extras.items():
        yield _extra_key(name, adapter), tensor.read()


def _keys(name: str, module: LoraModule) -> tuple[str, str]:
    if module.kind == "embedding":
        return f"{_PREFIX}{name}.lora_embedding_A", f"{_PREFIX}{name}.lora_embedding_B"
    return f"{_PREFIX}{name}.lora_A.weight", f"{_PREFIX}{name}.lora_B.weight"


def _extra_key(name: str, adapter: Adapter) -> str:
    """PEFT keeps a target's own bias under the layer that it wraps."""
    owner, _, leaf = name.rpartition(".")
    return f"{_PREFIX}{owner}.base_layer.{leaf}" if owner in adapter.modules else _PREFIX + name


def _trained_tokens(adapter: Adapter) -> dict[str, Any]:
    """The numbers of the tokens whose rows stand among the extras; PEFT cannot place the rows without them."""
    indices = adapter.config.get("trainable_token_indices")
    carried = any(".token_adapter." in name for name in adapter.extras)
    return {"trainable_token_indices": indices} if indices and carried else {}


def _modules_to_save(adapter: Adapter) -> list[str]:
    """The heads among the extras: those that the source's config names, found in its tensors."""
    named = adapter.config.get("modules_to_save") or ()
    if isinstance(named, str):
        named = (named,)
    if not named and adapter.config.get("task_type") in _HEAD_TASKS:
        named = ("classifier", "score", "qa_outputs")
    return sorted(name for name in named if any(f".{name}." in f".{extra}" for extra in adapter.extras))
