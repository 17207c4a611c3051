"""Read adapters kept inside a whole model's checkpoint: `qkv_proj.lora_A.vision.weight` beside `.base_layer.weight`.

Phi-4-multimodal stores two so, `vision` and `speech`, in a sharded checkpoint. `path#vision` opens one; only its
tensors are read. Rank and alpha stand in the model's config.json, as `vision_lora`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from studio.core.account import TensorRow
from studio.core.adapter import Adapter
from studio.core.errors import Refused
from studio.core.tensors import TensorFile
from studio.formats.containers.bundle import Bundle, unclear
from studio.formats.dialects import peft
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.guards import pair_paths, touched
from studio.formats.modules.peft_config import NO_CONFIG, PeftConfig, read_peft_config

_KEY = re.compile(r".+\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)\.([^.]+)(?:\.(?:weight|bias))?")
_UNNAMED = ("weight", "bias", "default")
_BASE_KEY = ".base_layer.weight"


def names(keys: Collection[str]) -> tuple[str, ...]:
    """The names of the adapters among these keys, sorted; adapters saved without a name have none."""
    return tuple(sorted({name for key in keys if (name := _name_of(key))}))


def sniff(bundle: Bundle) -> str | None:
    """Evidence of named adapters, several or beside the layers that they adapt; or None."""
    found = names(bundle.keys)
    beside_base = bundle.weights.suffix == ".json" or any(key.endswith(_BASE_KEY) for key in bundle.keys)
    is_alone = len(found) == 1 and not bundle.nested
    if not found or (is_alone and not beside_base and bundle.selected is None):
        return None
    return f"keys of adapters named {', '.join(found)}"


def read(bundle: Bundle) -> Adapter:
    """Read the selected adapter, or the only one. Raises `Refused` where it is unclear which one is meant."""
    stored = names(bundle.keys)
    found = sorted({*stored, *bundle.nested})
    name = bundle.selected or (found[0] if len(found) == 1 else None)
    if name not in stored:
        raise unclear(name, bundle.path.name, found)
    tensors = {key: tensor for key, tensor in bundle.tensors.items() if _name_of(key) == name}
    alone = Bundle(bundle.path, bundle.weights, TensorFile(tensors, bundle.metadata), bundle.config)
    config = read_peft_config(bundle.config) if bundle.config else _settings(bundle, name)
    adapter = peft.read_with(config, alone)
    others = (key for key in bundle.keys if key not in tensors)
    left_out = tuple(_left_out(adapter, others))
    return replace(adapter, name=f"{bundle.name}-{name}", tensors=adapter.tensors + left_out)


EMBEDDED = Dialect(
    "embedded",
    title="Phi-4-multimodal",
    source="microsoft/Phi-4-multimodal-instruct on the Hub",
    keys="`lora_A.vision.weight` beside `.base_layer.weight`, or a sharded checkpoint",
    scaling="`config.json`'s `vision_lora`; else 1 with a warning",
    names="the model's own path",
    sniff=sniff,
    read=read,
    several=True,
    also_claimed_by={"peft": "each of the adapters is PEFT's"},
)


def _name_of(key: str) -> str | None:
    """The name of the adapter that a tensor belongs to, or None."""
    match = _KEY.fullmatch(key)
    return match[1] if match and match[1] not in _UNNAMED else None


def _left_out(adapter: Adapter, keys: Iterable[str]) -> Iterator[TensorRow]:
    """The other adapters and the model; what stands under a pair's path and is neither is left to the guards."""
    paths = pair_paths(adapter)
    for key in keys:
        name = _name_of(key)
        if name or touched(paths, key) is None:
            why = f"of another adapter ({name})" if name else "of the model itself"
            yield TensorRow(key, "left out", why=why, is_harmless=True)


def _settings(bundle: Bundle, name: str) -> PeftConfig:
    """What the model's own config says about one of its adapters, as PEFT would say it."""
    said = bundle.base_config.get(f"{name}_lora")
    if said is None:
        return NO_CONFIG
    if not isinstance(said, dict):
        raise Refused(f"the model's {name}_lora is {str(said)[:60]!r}", "expected an object with r and lora_alpha")
    base = bundle.base_config.get("_name_or_path")
    config = {"base_model_name_or_path": base, **{key: said.get(key) for key in ("r", "lora_alpha")}}
    return read_peft_config(config, f"{name}_lora in config.json")
