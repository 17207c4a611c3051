"""The layout of a LoRWeB basis on disk: `lorweb_model.safetensors` in the released names, `config.yaml` beside it.

Both are checked field by field: what does not fit together is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from studio.core.errors import MissingFile, Refused
from studio.core.tensors import TensorFile

PREFIX = "transformer."
PARTS = ("lora_A", "lora_B", "lora_keys", "att_lora_to_q.weight")
WEIGHTS_NAME = "lorweb_model.safetensors"
CONFIG_NAME = "config.yaml"
_MAX_CONFIG_BYTES = 1 << 20
_MAX_NAME = 200


def is_lorweb(names: Iterable[str]) -> bool:
    """Whether these tensor names are a LoRWeB file's: keys beside LoRA factors."""
    return any(name.endswith(".lora_keys") for name in names)


def find_lorweb(path: Path) -> Path:
    """The weights file of a basis given by its folder or its file. Raises `MissingFile` when there is none."""
    file = path / WEIGHTS_NAME if path.is_dir() else path
    if not file.is_file():
        raise MissingFile(f"There is no LoRWeB file at {path}", next=f"give a folder with {WEIGHTS_NAME}, or the file")
    return file


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


def node_at(config: object, *steps: str) -> Mapping[str, object]:
    """The mapping below `config.process[0]`; empty when the path does not lead to one."""
    node: object = config
    for step in ("config", "process", 0, *steps):
        if isinstance(step, int):
            node = node[step] if isinstance(node, list) and node else None
        else:
            node = node.get(step) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


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


def _depth(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """Sorts modules from the model's input to its output: double blocks, single blocks, numbers as numbers."""
    parts = name.removeprefix(PREFIX).split(".")
    return parts[0].startswith("single"), [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
