"""LoRWeB: a weight basis of N LoRAs per linear, mixed per layer by a query from the example pair (arXiv 2602.15727).

For each adapted linear W (m x n) a file holds, in this layout and without ".weight" on the factors:

    transformer.<module>.lora_A                  (N, n, r)   down, input-major
    transformer.<module>.lora_B                  (N, r, m)   up, rank-major
    transformer.<module>.lora_keys               (N, d)
    transformer.<module>.att_lora_to_q.weight    (d, Q)

and the layer computes y = W x + sum_i e_i (x A_i) B_i with e = softmax(P z . K^T / sqrt(d)) for the query z of the
request. The sum is one ordinary LoRA of rank N r: stack all A_i once; per request only the scaled B changes. That
conversion is what this module does. diffusers loads such a file without an error and without an effect, so ask
`is_lorweb` first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from studio.adapter import Adapter, in_memory_module
from studio.errors import LoomError, MissingFile, Refused
from studio.late import torch
from studio.tensors import Array, TensorFile, open_safetensors

WEIGHTS_NAME = "lorweb_model.safetensors"
CONFIG_NAME = "config.yaml"
PREFIX = "transformer."
_PARTS = ("lora_A", "lora_B", "lora_keys", "att_lora_to_q.weight")
_MAX_CONFIG_BYTES = 1 << 20

QueryMode = Literal[
    "cat-aa'b", "ca'-ca", "ca'-ca+cb", "caa'", "caa'b", "caa'bb'", "aa'bb'", "paa'b*", "cat-paa'b*", "relation-aa'b"
]
_QUERY_MODES: tuple[str, ...] = (
    "cat-aa'b", "ca'-ca", "ca'-ca+cb", "caa'", "caa'b", "caa'bb'", "aa'bb'", "paa'b*", "cat-paa'b*", "relation-aa'b",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RoutingConfig:
    """How a query becomes a mix: the fields of `network.network_kwargs`, with the released run's values.

    `softmax` False means tanh of the same logits. `relation-aa'b` is ours: [E(a, a'), E(b, b)] from an encoder that
    sees two images at once.
    """

    heads: int = 1
    softmax: bool = True
    mixing: Literal["mean", "sum"] = "mean"
    query_projection: Literal["linear", "none"] = "linear"
    query_mode: QueryMode = "cat-aa'b"
    encoder: str = "openai/clip-vit-large-patch14"

    def __post_init__(self) -> None:
        if self.query_mode not in _QUERY_MODES:
            raise Refused(f"query_mode {self.query_mode!r} is not known", next=f"known are {', '.join(_QUERY_MODES)}")
        if self.heads != 1 or self.query_projection != "linear":
            raise Refused(
                f"A LoRWeB with {self.heads} heads and {self.query_projection!r} query projection cannot be mixed",
                "only one head and a linear projection, as released, are supported",
            )

    @staticmethod
    def from_dict(config: object) -> RoutingConfig:
        """Read the nested training configuration; missing fields keep the released run's values.

        Raises `Refused` for values that cannot be what the field means.
        """
        kwargs = _network_kwargs(config)
        default = RoutingConfig()
        fields = {
            "heads": _typed(kwargs, "lora_heads", int, default.heads),
            "softmax": _typed(kwargs, "lora_softmax", bool, default.softmax),
            "mixing": _typed(kwargs, "mixing_coeffs_type", str, default.mixing),
            "query_projection": _typed(kwargs, "query_projection_type", str, default.query_projection),
            "query_mode": _typed(kwargs, "query_mode", str, default.query_mode),
            "encoder": _typed(kwargs, "external_query_model", str, default.encoder),
        }
        return RoutingConfig(**cast(Any, fields))

    def to_dict(self, size: int, key_width: int, rank: int) -> dict[str, Any]:
        """The nested configuration that `from_dict` reads."""
        kwargs = {
            "loras_num": size,
            "lora_keys_dim": key_width,
            "lora_heads": self.heads,
            "lora_softmax": self.softmax,
            "mixing_coeffs_type": self.mixing,
            "query_projection_type": self.query_projection,
            "query_mode": self.query_mode,
            "external_query_model": self.encoder,
        }
        network = {"type": "lorweb", "linear": rank, "linear_alpha": rank, "network_kwargs": kwargs}
        return {"config": {"process": [{"network": network}]}}


@dataclass(frozen=True, slots=True, eq=False)
class BasisLayer:
    """The four tensors of one adapted linear, float32 or smaller, on any one device."""

    down: torch.Tensor  # (N, n, r)
    up: torch.Tensor  # (N, r, m)
    keys: torch.Tensor  # (N, d)
    to_q: torch.Tensor  # (d, Q)

    def stacked_down(self) -> torch.Tensor:
        """A of the rank N r LoRA, (N r, n); row i r + j is column j of adapter i. Fixed for all requests."""
        return self.down.permute(0, 2, 1).reshape(-1, self.down.shape[1])

    def stacked_up(self) -> torch.Tensor:
        """B of the rank N r LoRA before scaling, (m, N r)."""
        return self.up.permute(2, 0, 1).reshape(self.up.shape[2], -1)

    def scaled_up(self, mix: torch.Tensor) -> torch.Tensor:
        """B of one request, (m, N r), for its mix (N,)."""
        return self.stacked_up() * mix.repeat_interleave(self.down.shape[2])[None]


@dataclass(frozen=True, slots=True, eq=False)
class Lorweb:
    """A basis: its layers by module name, from input to output, and how it is routed."""

    layers: Mapping[str, BasisLayer]
    config: RoutingConfig = field(default_factory=RoutingConfig)

    @property
    def size(self) -> int:
        """N, the number of adapters."""
        return next(iter(self.layers.values())).down.shape[0]

    @property
    def rank(self) -> int:
        """r, the rank of each adapter."""
        return next(iter(self.layers.values())).down.shape[2]

    @property
    def query_width(self) -> int:
        """Q, the width of the query."""
        return next(iter(self.layers.values())).to_q.shape[1]

    def coefficients(self, query: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Mix of every layer, (layers, N), for a query (Q,); float32.

        `temperature` divides the logits: for softmax that is e^(1/T) renormalised. Raises `LoomError` for a query of
        the wrong width and for a temperature that is not positive.
        """
        if query.shape != (self.query_width,):
            raise LoomError(f"The query has shape {tuple(query.shape)}", f"this basis takes ({self.query_width},)")
        if not (math.isfinite(temperature) and temperature > 0):
            raise LoomError(f"Temperature {temperature} is not positive")
        logits = torch.stack([self._logits(layer, query.float()) for layer in self.layers.values()]) / temperature
        return logits.softmax(-1) if self.config.softmax else logits.tanh()

    @staticmethod
    def _logits(layer: BasisLayer, query: torch.Tensor) -> torch.Tensor:
        return layer.keys.float() @ (layer.to_q.float() @ query) / math.sqrt(layer.keys.shape[1])

    def check(self, mix: torch.Tensor) -> torch.Tensor:
        """The mix itself if it has shape (layers, N) and is finite; raises `LoomError` otherwise."""
        expected = (len(self.layers), self.size)
        if tuple(mix.shape) != expected:
            raise LoomError(f"The coefficients have shape {tuple(mix.shape)}", f"this basis takes {expected}")
        if not bool(torch.isfinite(mix).all()):
            raise LoomError("The coefficients are not all finite")
        return mix

    def deltas(self, mix: torch.Tensor, strength: float = 1.0) -> dict[str, torch.Tensor]:
        """Dense updates (m, n) of every module for one mix (layers, N)."""
        rows = zip(self.layers.items(), self.check(mix), strict=True)
        return {
            name: (layer.scaled_up(row.to(layer.up)) * strength) @ layer.stacked_down() for (name, layer), row in rows
        }

    def as_lora(self, mix: torch.Tensor, strength: float = 1.0, name: str = "analogy") -> Adapter:
        """One analogy as an ordinary LoRA of rank N r, A stacked and B scaled; scaling 1 and float32.

        Modules carry the pipeline's component in front, as all FLUX adapters of the studio do.
        """
        rows = zip(self.layers.items(), self.check(mix), strict=True)
        factors = {
            module: (layer.stacked_down(), layer.scaled_up(row.to(layer.up)) * strength)
            for (module, layer), row in rows
        }
        return _adapter(name, factors, f"one mix of {self.size} adapters of rank {self.rank}")

    def member(self, index: int) -> Adapter:
        """One adapter of the basis as an ordinary LoRA of rank r: the mix that has it alone, everywhere."""
        if not 0 <= index < self.size:
            raise LoomError(f"There is no adapter {index}", f"the basis has {self.size}, counted from 0")
        factors = {module: (layer.down[index].T, layer.up[index].T) for module, layer in self.layers.items()}
        return _adapter(f"basis {index + 1}", factors, f"adapter {index + 1} of a LoRWeB basis of {self.size}")


def einsum_reference(layer: BasisLayer, x: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """The update as the paper states it, for tests: x (batch, tokens, n), mix (batch, N) to (batch, tokens, m)."""
    return torch.einsum("bsi,nir,bn,nro->bso", x, layer.down, mix, layer.up)


def is_lorweb(names: Iterable[str]) -> bool:
    """Whether these tensor names are a LoRWeB file's: keys beside LoRA factors."""
    return any(name.endswith(".lora_keys") for name in names)


def effective_size(mix: torch.Tensor) -> torch.Tensor:
    """Effective number of adapters in each row of a mix, 1 / sum of squared shares; negative parts count by size."""
    shares = mix.abs() / mix.abs().sum(-1, keepdim=True).clamp(min=1e-12)
    return 1 / (shares**2).sum(-1)


def read_lorweb(path: Path) -> Lorweb:
    """Read a basis from its folder or its weights file; a `config.yaml` beside the weights is used if it is there.

    Raises `MissingFile` when there is none and `Refused` when the tensors do not fit together.
    """
    file = path / WEIGHTS_NAME if path.is_dir() else path
    if not file.is_file():
        raise MissingFile(f"There is no LoRWeB file at {path}", next=f"give a folder with {WEIGHTS_NAME}, or the file")
    stored = open_safetensors(file)
    if not is_lorweb(stored.tensors):
        raise Refused(f"{file.name} is not a LoRWeB basis", "it holds no tensor named *.lora_keys")
    config_file = file.with_name(CONFIG_NAME)
    config = RoutingConfig.from_dict(_read_yaml(config_file)) if config_file.is_file() else RoutingConfig()
    names = sorted((k.removesuffix(".lora_keys") for k in stored.tensors if k.endswith(".lora_keys")), key=_depth)
    layers = {name.removeprefix(PREFIX): _read_layer(stored, name, file.name) for name in names}
    shapes = {(layer.down.shape[0], layer.down.shape[2], layer.to_q.shape[1]) for layer in layers.values()}
    if len(shapes) > 1:
        raise Refused(f"{file.name} mixes bases", f"its layers differ in (N, r, Q): {sorted(shapes)}")
    return Lorweb(layers, config)


def write_lorweb(basis: Lorweb, folder: Path) -> Path:
    """Write the released layout: float16 weights and config.yaml. Returns the weights file."""
    import yaml
    from safetensors.torch import save_file

    state = {}
    for name, layer in basis.layers.items():
        tensors = (layer.down, layer.up, layer.keys, layer.to_q)
        for part, value in zip(_PARTS, tensors, strict=True):
            state[f"{PREFIX}{name}.{part}"] = value.detach().half().cpu().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(basis.layers.values()))
    config = basis.config.to_dict(basis.size, first.keys.shape[1], basis.rank)
    _write_whole(folder / CONFIG_NAME, yaml.safe_dump(config, sort_keys=False).encode())
    part_file = folder / (WEIGHTS_NAME + ".part")
    save_file(state, part_file, metadata={"format": "pt"})
    os.replace(part_file, folder / WEIGHTS_NAME)
    return folder / WEIGHTS_NAME


def _read_layer(stored: TensorFile, name: str, file: str) -> BasisLayer:
    keys = [f"{name}.{part}" for part in _PARTS]
    missing = [key for key in keys if key not in stored.tensors]
    if missing:
        raise Refused(f"{file} lacks {missing[0]}", f"a LoRWeB layer has {', '.join(_PARTS)}", "download it again")
    down, up, lookup, to_q = (stored.tensors[key].shape for key in keys)
    fits = len(down) == len(up) == 3 and len(lookup) == len(to_q) == 2
    if not fits or down[0] != up[0] or down[2] != up[1] or lookup != (down[0], to_q[0]) or 0 in (*down, *up, *to_q):
        raise Refused(f"{file}: the shapes of {name} do not fit", f"A {down}, B {up}, keys {lookup}, projection {to_q}")
    values = [torch.from_numpy(np.array(stored.tensors[key].read())) for key in keys]
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise Refused(f"{file}: {name} holds numbers that are not finite")
    return BasisLayer(*values)


def _depth(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """Sorts modules from the model's input to its output: double blocks, single blocks, numbers as numbers."""
    parts = name.removeprefix(PREFIX).split(".")
    return parts[0].startswith("single"), [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _adapter(name: str, factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]], evidence: str) -> Adapter:
    modules = {}
    for module, (down, up) in factors.items():
        full = PREFIX + module
        modules[full] = in_memory_module(full, _numpy(down), _numpy(up), origin="lorweb")
    return Adapter(name, modules, dialect="lorweb", evidence=evidence)


def _numpy(tensor: torch.Tensor) -> Array:
    values: Array = tensor.detach().float().cpu().contiguous().numpy()
    return values


def _read_yaml(path: Path) -> object:
    import yaml

    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise Refused(f"{path.name} is too large for a configuration", f"{path.stat().st_size} bytes")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused(f"{path.name} is not readable YAML", str(error).splitlines()[0]) from error


def _network_kwargs(config: object) -> Mapping[str, object]:
    """`config.process[0].network.network_kwargs`, empty when the path does not lead there."""
    node: object = config
    for step in ("config", "process", 0, "network", "network_kwargs"):
        if isinstance(step, int):
            node = node[step] if isinstance(node, list) and node else None
        else:
            node = node.get(step) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def _typed(kwargs: Mapping[str, object], key: str, kind: type, default: object) -> object:
    value = kwargs.get(key, default)
    if type(value) is not kind:
        raise Refused(f"{key} in the LoRWeB configuration is {value!r}", f"it should be a {kind.__name__}")
    return value


def _write_whole(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
