"""Read the dotted dialects of image models: diffusers (new and old attention processors), ComfyUI and ai-toolkit.

They differ in endings and prefixes only. Scaling is alpha / r where alpha is stored, as a
tensor or in the header's lora_adapter_metadata, else 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from studio.core.adapter import Adapter
from studio.core.errors import Refused
from studio.formats.containers.bundle import Bundle
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.names import COMPONENTS, canonical
from studio.formats.modules.parts import Parts, split_key
from studio.formats.modules.patterns import wrapped_names
from studio.formats.modules.peft_config import PeftConfig, read_peft_config
from studio.formats.modules.pipeline import read_pipeline
from studio.formats.modules.scaling import Scaling, said

_METADATA = "lora_adapter_metadata"
_WITHOUT_ALPHA = said(1.0, "diffusers' rule for a file without alpha and without a config in its header")


def sniff(bundle: Bundle) -> str | None:
    """Evidence that the keys are a pipeline's, or None."""
    if bundle.config is not None and "peft_type" in bundle.config:
        return None
    for key in bundle.keys:
        split = split_key(key)
        if split is None or "." not in split[0] or split[0].startswith(("base_model.", "transformer.h.")):
            continue  # GPT-2 and Falcon call their own trunk "transformer"
        if ".processor" in split[0]:
            return f"attention-processor keys such as {key}"
        if canonical(split[0]).name.split(".")[0] in COMPONENTS:
            return f"pipeline keys such as {key}"
    return None


def read(bundle: Bundle) -> Adapter:
    """Read every component of the file. Raises `Refused` for half adapters and other kinds, by name."""
    return read_pipeline(bundle, partial(_scaling, _header_configs(bundle.metadata)), _WITHOUT_ALPHA)


DIFFUSERS = Dialect(
    "diffusers",
    title="diffusers, attention processors of old releases included",
    source="huggingface/diffusers, loaders/lora_pipeline.py",
    keys="`unet.…lora.down`, `…processor.to_q_lora.down`",
    scaling="alpha tensors or the header's config; else 1",
    names="`unet.…`, `text_encoder.…`, `transformer.…`",
    sniff=sniff,
    read=read,
    tested_with="diffusers",
    also_claimed_by={"peft": "its endings are PEFT's; the component in front tells"},
)


def _scaling(configs: Mapping[str, PeftConfig], spelling: str, parts: Parts) -> Scaling | None:
    component = canonical(spelling).name.partition(".")[0]
    config = configs.get(component) or configs.get("")
    if config is None or "down" not in parts or not parts["down"].shape:
        return None
    if "alpha" in parts:
        raise Refused("the file gives alpha twice", "as tensors and in its header", "remove one of them")
    return config.scaling(parts["down"].shape[0] or 1, *wrapped_names(spelling.removeprefix(f"{component}.")))


def _header_configs(metadata: Mapping[str, str]) -> dict[str, PeftConfig]:
    """The LoraConfig of each component in the header; the empty name stands for a file of one component."""
    if _METADATA not in metadata:
        return {}
    try:
        loaded = json.loads(metadata[_METADATA])
    except (ValueError, RecursionError) as error:
        raise Refused(f"the header's {_METADATA} is not JSON", str(error), "save the adapter again") from error
    if not isinstance(loaded, dict):
        raise Refused(f"the header's {_METADATA} holds a {type(loaded).__name__}", "expected an object of settings")
    by_component: dict[str, dict[str, Any]] = {}
    for key, value in loaded.items():
        component, _, setting = key.partition(".")
        owner, setting = (component, setting) if component in COMPONENTS and setting else ("", key)
        by_component.setdefault(owner, {})[setting] = value
    return {
        component: read_peft_config(settings, f"the header's {_METADATA}")
        for component, settings in by_component.items()
    }
