"""A LoRWeB basis on disk: `lorweb_model.safetensors` in the released names and shapes, `config.yaml` beside it.

Both are checked field by field: what does not fit together is refused by name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from studio.errors import MissingFile, Refused
from studio.files import write_atomic
from studio.late import torch
from studio.tensors import TensorFile, open_safetensors
from studio.vision.lorweb import PARTS, PREFIX, BasisLayer, Lorweb, RoutingConfig, is_lorweb, node_at

WEIGHTS_NAME = "lorweb_model.safetensors"
CONFIG_NAME = "config.yaml"
_MAX_CONFIG_BYTES = 1 << 20
_MAX_NAME = 200


def find_lorweb(path: Path) -> Path:
    """The weights file of a basis given by its folder or its file. Raises `MissingFile` when there is none."""
    file = path / WEIGHTS_NAME if path.is_dir() else path
    if not file.is_file():
        raise MissingFile(f"There is no LoRWeB file at {path}", next=f"give a folder with {WEIGHTS_NAME}, or the file")
    return file


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


def read_config(weights: Path) -> object:
    """The training configuration beside the weights as YAML gives it; None where there is none.

    Raises `Refused` for one that is too large or not YAML.
    """
    import yaml

    path = weights.with_name(CONFIG_NAME)
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise Refused(f"{path.name} is too large for a configuration", f"{path.stat().st_size} bytes")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"{path.name} is not readable YAML", str(error).splitlines()[0]) from error


def encoder_of(weights: Path) -> str:
    """The image encoder that a basis is routed by, as its configuration names it."""
    return RoutingConfig.from_dict(read_config(weights)).encoder


def base_of(config: object) -> str | None:
    """The base model that a training configuration names, `config.process[0].model.name_or_path`."""
    named = node_at(config, "model").get("name_or_path")
    return named if isinstance(named, str) and 0 < len(named) <= _MAX_NAME else None


def modules_of(stored: TensorFile) -> list[str]:
    """The adapted modules of a basis as the file names them, from the model's input to its output."""
    return sorted((key.removesuffix(".lora_keys") for key in stored.tensors if key.endswith(".lora_keys")), key=_depth)


def check_layer(stored: TensorFile, name: str, file: str) -> tuple[int, ...]:
    """(N, n, r, m) of one layer. Raises `Refused` where a tensor is missing or the shapes do not fit."""
    keys = [f"{name}.{part}" for part in PARTS]
    missing = [key for key in keys if key not in stored.tensors]
    if missing:
        raise Refused(f"{file} lacks {missing[0]}", f"a LoRWeB layer has {', '.join(PARTS)}", "download it again")
    down, up, lookup, to_q = (stored.tensors[key].shape for key in keys)
    fits = len(down) == len(up) == 3 and len(lookup) == len(to_q) == 2
    if not fits or down[0] != up[0] or down[2] != up[1] or lookup != (down[0], to_q[0]) or 0 in (*down, *up, *to_q):
        raise Refused(f"{file}: the shapes of {name} do not fit", f"A {down}, B {up}, keys {lookup}, projection {to_q}")
    return (*down, up[2])


def _read_layer(stored: TensorFile, name: str, file: str, dtype: torch.dtype | None) -> BasisLayer:
    check_layer(stored, name, file)
    values = [torch.from_numpy(np.array(stored.tensors[f"{name}.{part}"].read())).to(dtype) for part in PARTS]
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise Refused(f"{file}: {name} holds numbers that are not finite")
    return BasisLayer(*values)


def _depth(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """Sorts modules from the model's input to its output: double blocks, single blocks, numbers as numbers."""
    parts = name.removeprefix(PREFIX).split(".")
    return parts[0].startswith("single"), [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
