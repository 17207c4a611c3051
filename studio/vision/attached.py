"""A LoRWeB basis inside a stock diffusers pipeline: one LoRA of rank N r whose B is rewritten for each request.

Converted once: A stacks the down matrices of all adapters and stays for ever. A request writes only
B[:, i r : (i + 1) r] = e_i up_i, on every adapted linear. Nothing of the base is touched, so
it may be quantised, cast to float8, or kept off the GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from studio.core.errors import LoomError
from studio.core.late import torch
from studio.formats.containers.lorweb_file import PREFIX
from studio.vision.lorweb import Lorweb

ADAPTER = "analogy"


@dataclass(frozen=True, eq=False)
class Attached:
    """The pipeline's LoRA layers by module name, and the unscaled B of each, (m, N r), where its weight is."""

    basis: Lorweb
    linears: Mapping[str, torch.nn.Linear]
    ups: Mapping[str, torch.Tensor]

    def write(self, mix: torch.Tensor, strength: float = 1.0) -> None:
        """Make the LoRA that of one mix (layers, N). Raises `LoomError` for a mix of the wrong shape or not finite."""
        scales = (self.basis.check(mix).float() * strength).repeat_interleave(self.basis.rank, 1)
        with torch.no_grad():
            for row, (name, linear) in zip(scales, self.linears.items(), strict=True):
                up = self.ups[name]
                _stored(linear).copy_(up * row.to(up.device))  # float32 product, rounded once

    @property
    def bytes_written(self) -> int:
        """How much one request writes."""
        return sum(up.numel() * up.element_size() for up in self.ups.values())


def attach(pipeline: Any, basis: Lorweb) -> Attached:
    """Give a pipeline the LoRA of a basis, at a mix of zero. Raises `Refused` where the basis is of another base."""
    transformer = pipeline.transformer
    basis.check_fits(transformer)
    dtype = transformer.dtype
    state = {}
    for name, layer in basis.layers.items():
        state[f"{PREFIX}{name}.lora_A.weight"] = layer.stacked_down().to(dtype).contiguous()
        state[f"{PREFIX}{name}.lora_B.weight"] = torch.zeros_like(layer.stacked_up(), dtype=dtype)
    if ADAPTER in getattr(transformer, "peft_config", {}):
        transformer.delete_adapters(ADAPTER)
    transformer.load_lora_adapter(state, adapter_name=ADAPTER)
    linears = {name: _lora_of(transformer, name) for name in basis.layers}
    ups = {name: basis.layers[name].stacked_up().to(linear.weight) for name, linear in linears.items()}
    return Attached(basis, linears, ups)


def _lora_of(transformer: Any, name: str) -> torch.nn.Linear:
    """The B of a module, as PEFT put it there with scaling 1."""
    layer = transformer.get_submodule(name)
    found = getattr(layer, "lora_B", {})
    if ADAPTER not in found:
        raise LoomError(f"The pipeline took no LoRA on {name}", next="report the versions of diffusers and PEFT")
    if layer.scaling[ADAPTER] != 1:
        raise LoomError(f"The pipeline scales {name} by {layer.scaling[ADAPTER]}", "a basis is written at scaling 1")
    linear: torch.nn.Linear = found[ADAPTER]
    return linear


def _stored(linear: torch.nn.Linear) -> torch.Tensor:
    """The weight to write: under sequential offload the copy that accelerate keeps, else the parameter itself."""
    if not linear.weight.is_meta:
        return linear.weight
    kept = getattr(getattr(linear, "_hf_hook", None), "weights_map", None)
    if kept is None:
        raise LoomError("The adapter's weights are not in memory", next="offload whole models, not layers")
    weight: torch.Tensor = kept["weight"]
    return weight
