"""Read files of cloneofsimo/lora: safetensors keyed `unet:12:up`, and .pt lists of up and down tensors in turn.

Layers have no names, only positions in the order in which the tool walked the model; formats/keys/unet_by_index.txt has
that order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from studio.core.adapter import Adapter, Finding, LoraModule
from studio.core.errors import Refused
from studio.core.tensors import TensorRef
from studio.formats.containers.bundle import Bundle
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.names import unet_by_index
from studio.formats.modules.pairs import require_both_halves, stored_module
from studio.formats.modules.scaling import said

# Classes of the layers' ancestors as the tool's metadata names them -> as the table does.
_ANCESTORS = {"CrossAttention": "attention", "Attention": "attention", "GEGLU": "geglu", "ResnetBlock2D": "resnet"}
_TEXT_ORDER = ("k_proj", "v_proj", "q_proj", "out_proj")  # CLIPAttention's registration order
_SD1_TEXT_WIDTH = 768
_SCALING = said(1.0, "cloneofsimo/lora has no alpha")


class _Place(NamedTuple):
    """Where a numbered layer is: its name and, for the UNet, its expected shape in Stable Diffusion 1."""

    name: str
    shape: tuple[int, int] | None = None


def sniff(bundle: Bundle) -> str | None:
    """Evidence of numbered layers, or None."""
    if any(key.startswith(("unet:", "text_encoder:")) and key.endswith(":up") for key in bundle.keys):
        return "numbered keys such as unet:0:up"
    if bundle.keys and bundle.keys[:2] == ("0", "1") and bundle.keys[-1] == str(len(bundle.keys) - 1):
        return f"a bare list of {len(bundle.keys)} tensors"
    return None


def read(bundle: Bundle) -> Adapter:
    """Name every layer by its position. Raises `Refused` where the shapes do not fit the positions."""
    components = _from_list(bundle) if bundle.keys[0] == "0" else _from_keys(bundle)
    modules: dict[str, LoraModule] = {}
    for component, pairs in components.items():
        places = _places(component, pairs, bundle.metadata)
        for index, (down, up) in pairs.items():
            place = places[index]
            module = stored_module(place.name, down, up, _SCALING)
            _check_shape(module, place)
            modules[place.name] = module
    if not modules:
        raise Refused(f"{bundle.name} holds no LoRA pairs")
    extras = {key: tensor for key, tensor in bundle.tensors.items() if key.startswith("<")}
    return Adapter(
        name=bundle.name,
        modules=modules,
        findings=(Finding("note", "layers are named by position, in the order of diffusers 0.11; every shape fits"),),
        extras=extras,
        metadata=bundle.metadata,
        path=bundle.path,
    )


CLONEOFSIMO = Dialect(
    "cloneofsimo",
    title="cloneofsimo/lora",
    source="cloneofsimo/lora, lora_diffusion/lora.py: _find_modules_v2, save_safeloras",
    keys="`unet:0:up`, or a bare list in a `.pt`",
    scaling="1",
    names="by position in diffusers 0.11's order; every shape must fit",
    sniff=sniff,
    read=read,
)

Pairs = dict[int, tuple[TensorRef, TensorRef]]


def _from_keys(bundle: Bundle) -> dict[str, Pairs]:
    halves: dict[str, dict[str, dict[int, TensorRef]]] = {}
    for key, tensor in bundle.tensors.items():
        component, _, rest = key.partition(":")
        index, _, half = rest.partition(":")
        if half in ("up", "down") and index.isascii() and index.isdigit() and len(index) < 6:
            halves.setdefault(component, {"up": {}, "down": {}})[half][int(index)] = tensor
    for component, found in halves.items():
        require_both_halves(_labelled(component, found["down"]), _labelled(component, found["up"]))
    return {
        component: {index: (found["down"][index], up) for index, up in sorted(found["up"].items())}
        for component, found in halves.items()
    }


def _labelled(component: str, tensors: Mapping[int, TensorRef]) -> dict[str, TensorRef]:
    return {f"{component}:{index}": tensor for index, tensor in tensors.items()}


def _from_list(bundle: Bundle) -> dict[str, Pairs]:
    tensors = list(bundle.tensors.values())
    if len(tensors) % 2:
        raise Refused("this is half an adapter", f"a list of {len(tensors)} tensors does not pair up", "save it again")
    pairs = {i // 2: (tensors[i + 1], tensors[i]) for i in range(0, len(tensors), 2)}
    widths = {down.shape[-1] for down, _ in pairs.values() if down.shape}
    is_text = len(pairs) % len(_TEXT_ORDER) == 0 and len(widths) == 1
    return {"text_encoder" if is_text else "unet": pairs}


def _places(component: str, pairs: Pairs, metadata: Mapping[str, str]) -> dict[int, _Place]:
    places = dict(enumerate(_unet_places(len(pairs), metadata) if component == "unet" else _text_places(component)))
    beyond = [index for index in pairs if index not in places]
    if beyond:
        raise Refused(
            f"{component}:{beyond[0]} is beyond the layers of Stable Diffusion", f"{len(pairs)} are in the file"
        )
    return places


def _unet_places(count: int, metadata: Mapping[str, str]) -> Iterator[_Place]:
    """The numbered layers below the ancestors that the metadata names, or that the count tells."""
    kinds = {_ANCESTORS[name] for name in _class_names(metadata.get("unet")) if name in _ANCESTORS}
    if not kinds:
        attention_alone = sum(layer.ancestor == "attention" for layer in unet_by_index())
        kinds = {"attention"} if count == attention_alone else {"attention", "geglu"}
    for layer in unet_by_index():
        if layer.ancestor in kinds:
            yield _Place(layer.name, (layer.d_out, layer.d_in))


def _text_places(component: str) -> Iterator[_Place]:
    if component != "text_encoder":
        raise Refused(f"the component {component!r} is not known", "expected unet or text_encoder")
    for layer in range(32):
        for part in _TEXT_ORDER:
            yield _Place(f"text_encoder.text_model.encoder.layers.{layer}.self_attn.{part}")


def _class_names(text: str | None) -> list[str]:
    try:
        loaded: Any = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return []
    return [name for name in loaded if isinstance(name, str)] if isinstance(loaded, list) else []


def _check_shape(module: LoraModule, place: _Place) -> None:
    """Positions are only right if every layer has its place's shape; the text width is the base's own affair."""
    if place.shape is None or module.shape == place.shape:
        return
    d_out, d_in = place.shape
    if module.d_out == d_out and d_in == _SD1_TEXT_WIDTH:
        return
    raise Refused(
        "the numbered layers are not Stable Diffusion's",
        f"{place.name} should be {d_out} x {d_in}, the file has {module.d_out} x {module.d_in}",
        "convert the file with the tool that made it",
    )
