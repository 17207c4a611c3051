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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from studio.core.adapter import Adapter, in_memory_module
from studio.core.errors import LoomError, Refused
from studio.core.late import torch
from studio.core.tensors import Array
from studio.formats.containers.lorweb_file import PREFIX, node_at

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
        kwargs = node_at(config, "network", "network_kwargs")
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

    def to_dict(self, size: int, key_width: int, rank: int, base: str | None = None) -> dict[str, Any]:
        """The nested configuration that `from_dict` reads; `base` is named where trainers name it."""
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
        model = {} if base is None else {"model": {"name_or_path": base}}
        return {"config": {"process": [{"network": network, **model}]}}


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
    """A basis: its layers by module name, from input to output, how it is routed, and the base it was trained on."""

    layers: Mapping[str, BasisLayer]
    config: RoutingConfig = field(default_factory=RoutingConfig)
    base: str | None = None

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
        return _adapter(name, factors, self.base, f"one mix of {self.size} adapters of rank {self.rank}")

    def member(self, index: int) -> Adapter:
        """One adapter of the basis as an ordinary LoRA of rank r: the mix that has it alone, everywhere."""
        if not 0 <= index < self.size:
            raise LoomError(f"There is no adapter {index}", f"the basis has {self.size}, counted from 0")
        factors = {module: (layer.down[index].T, layer.up[index].T) for module, layer in self.layers.items()}
        evidence = f"adapter {index + 1} of a LoRWeB basis of {self.size}"
        return _adapter(f"basis {index + 1}", factors, self.base, evidence)

    def check_fits(self, model: torch.nn.Module) -> None:
        """Raise `Refused` unless every layer of the basis has its linear, of its shape, in the transformer."""
        for name, layer in self.layers.items():
            wanted = layer.up.shape[2], layer.down.shape[1]
            found = _shape_of(model, name)
            if found != wanted:
                why = f"{name} is {found or 'not there'} in the base, the basis adapts {wanted}"
                raise Refused("The basis does not belong to this base", why, "choose the base it was trained on")


def einsum_reference(layer: BasisLayer, x: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """The update as the paper states it, for tests: x (batch, tokens, n), mix (batch, N) to (batch, tokens, m)."""
    return torch.einsum("bsi,nir,bn,nro->bso", x, layer.down, mix, layer.up)


def effective_size(mix: torch.Tensor) -> torch.Tensor:
    """Effective number of adapters in each row of a mix, 1 / sum of squared shares; negative parts count by size."""
    shares = mix.abs() / mix.abs().sum(-1, keepdim=True).clamp(min=1e-12)
    return 1 / (shares**2).sum(-1)


def _shape_of(model: torch.nn.Module, name: str) -> tuple[int, int] | None:
    """(d_out, d_in) of a linear by its name; quantised ones keep it beside their packed weight."""
    try:
        found = model.get_submodule(name)
    except AttributeError:
        return None
    sizes = getattr(found, "out_features", None), getattr(found, "in_features", None)
    return sizes if isinstance(sizes[0], int) and isinstance(sizes[1], int) else None  # type: ignore[return-value]


def _adapter(
    name: str, factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]], base: str | None, evidence: str
) -> Adapter:
    modules = {}
    for module, (down, up) in factors.items():
        full = PREFIX + module
        modules[full] = in_memory_module(full, _numpy(down), _numpy(up), origin="lorweb")
    return Adapter(name, modules, evidence=evidence, base=base)


def _numpy(tensor: torch.Tensor) -> Array:
    values: Array = tensor.detach().float().cpu().contiguous().numpy()
    return values


def _typed(kwargs: Mapping[str, object], key: str, kind: type, default: object) -> object:
    value = kwargs.get(key, default)
    if type(value) is not kind:
        raise Refused(f"{key} in the LoRWeB configuration is {value!r}", f"it should be a {kind.__name__}")
    return value
