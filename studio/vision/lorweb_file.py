"""A LoRWeB basis read from its files and written to them; the layout itself is in `studio.formats.containers`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from studio.core.errors import Refused
from studio.core.files import write_atomic
from studio.core.late import torch
from studio.core.tensors import TensorFile, open_safetensors
from studio.formats.containers.lorweb_file import (
    CONFIG_NAME,
    PARTS,
    PREFIX,
    WEIGHTS_NAME,
    base_of,
    check_layer,
    find_lorweb,
    is_lorweb,
    modules_of,
    read_config,
)
from studio.vision.lorweb import BasisLayer, Lorweb, RoutingConfig


def read_lorweb(path: Path, dtype: torch.dtype | None = None) -> Lorweb:
    """Read a basis from its folder or its weights file; a `config.yaml` beside the weights is used if it is there.

    Tensors are float32, or of `dtype`. Raises `MissingFile` when there is none and `Refused` when the tensors do not
    fit together.
    """
    file = find_lorweb(path)
    stored = open_safetensors(file)
    if not is_lorweb(stored.tensors):
        raise Refused(f"{file.name} is not a LoRWeB basis", "it holds no tensor named *.lora_keys")
    config = read_config(file)
    names = modules_of(stored)
    layers = {name.removeprefix(PREFIX): _read_layer(stored, name, file.name, dtype) for name in names}
    shapes = {(layer.down.shape[0], layer.down.shape[2], layer.to_q.shape[1]) for layer in layers.values()}
    if len(shapes) > 1:
        raise Refused(f"{file.name} mixes bases", f"its layers differ in (N, r, Q): {sorted(shapes)}")
    return Lorweb(layers, RoutingConfig.from_dict(config), base_of(config))


def write_lorweb(basis: Lorweb, folder: Path) -> Path:
    """Write the released layout: float16 weights and config.yaml. Returns the weights file."""
    import yaml
    from safetensors.torch import save

    state = {}
    for name, layer in basis.layers.items():
        tensors = (layer.down, layer.up, layer.keys, layer.to_q)
        for part, value in zip(PARTS, tensors, strict=True):
            state[f"{PREFIX}{name}.{part}"] = value.detach().half().cpu().contiguous()
    first = next(iter(basis.layers.values()))
    config = basis.config.to_dict(basis.size, first.keys.shape[1], basis.rank, basis.base)
    write_atomic(folder / CONFIG_NAME, yaml.safe_dump(config, sort_keys=False).encode())
    write_atomic(folder / WEIGHTS_NAME, save(state, metadata={"format": "pt"}))
    return folder / WEIGHTS_NAME


def encoder_of(weights: Path) -> str:
    """The image encoder that a basis is routed by, as its configuration names it."""
    return RoutingConfig.from_dict(read_config(weights)).encoder


def _read_layer(stored: TensorFile, name: str, file: str, dtype: torch.dtype | None) -> BasisLayer:
    check_layer(stored, name, file)
    values = [torch.from_numpy(np.array(stored.tensors[f"{name}.{part}"].read())).to(dtype) for part in PARTS]
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise Refused(f"{file}: {name} holds numbers that are not finite")
    return BasisLayer(*values)
