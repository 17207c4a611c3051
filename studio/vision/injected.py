"""LoRA adapters inside a loaded pipeline for the time of a call: hooks add B A x to each layer, and are gone after.

Nothing of the base is written or replaced, so it may be quantised or offloaded, it is loaded once for all variants,
and clean-up cannot fail. Several adapters add up, each times its weight, which is what diffusers' `set_adapters` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from studio.core.adapter import Adapter, LoraModule
from studio.core.errors import LoomError
from studio.core.late import torch
from studio.formats.modules.names import COMPONENTS, canonical

Weighted = tuple[Adapter, float]


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """An adapter's factors as a pipeline's layers take them: (layer, A, B) with the scaling inside B."""

    name: str
    parts: tuple[tuple[Any, torch.Tensor, torch.Tensor], ...]


def layers_of(pipeline: Any) -> dict[str, Any]:
    """Every layer of a pipeline's denoisers and text encoders by the studio's name."""
    found: dict[str, Any] = {}
    for component in COMPONENTS:
        model = getattr(pipeline, component, None)
        if model is not None:
            found.update({canonical(f"{component}.{name}").name: layer for name, layer in model.named_modules()})
    return found


def place(adapter: Adapter, layers: Mapping[str, Any]) -> Placed:
    """Put an adapter's factors beside the layers that they adapt, in each layer's own type and place.

    Raises `LoomError` where a layer is missing or of another shape: the adapter is of another base.
    """
    parts = []
    for name, module in adapter.modules.items():
        layer = layers.get(name)
        if layer is None or _shape(layer) != module.shape:
            why = f"{name} is {'not in it' if layer is None else _shape(layer)}, the adapter adapts {module.shape}"
            raise LoomError(f"{adapter.name} does not fit this base", why, "choose the base it was trained on")
        parts.append((layer, *_factors(module, layer)))
    return Placed(adapter.name, tuple(parts))


@contextmanager
def injected(placed: Sequence[tuple[Placed, float]]) -> Iterator[None]:
    """The pipeline with these adapters in it, each times its weight; a weight of zero leaves its adapter out."""
    hooks = [
        layer.register_forward_hook(_Update(a, b, weight))
        for adapter, weight in placed
        if weight
        for layer, a, b in adapter.parts
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Update:
    """Adds weight * B (A x) to a layer's output, where the input is."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor, weight: float) -> None:
        self.a, self.b, self.weight = a, b, weight

    def __call__(self, layer: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        """The hook's form: module, positional inputs, output."""
        x = given[0]
        a, b = self.a.to(x.device), self.b.to(x.device)
        if isinstance(layer, torch.nn.Embedding):
            return out + self.weight * (a.T[x] @ b.T)
        x = x.to(a.dtype)
        if isinstance(layer, torch.nn.Conv2d):
            down = torch.nn.functional.conv2d(x, a, None, layer.stride, layer.padding, layer.dilation)
            return out + (self.weight * torch.nn.functional.conv2d(down, b)).to(out.dtype)
        return out + (self.weight * (x @ a.T @ b.T)).to(out.dtype)


def _shape(layer: Any) -> tuple[int, int] | None:
    """(d_out, d_in) of a layer, kernels flattened; embeddings as adapters have them. None for what takes no LoRA."""
    if isinstance(layer, torch.nn.Conv2d):
        kernel = layer.kernel_size[0] * layer.kernel_size[1]
        return None if layer.groups != 1 else (layer.out_channels, layer.in_channels * kernel)
    if isinstance(layer, torch.nn.Embedding):
        return layer.embedding_dim, layer.num_embeddings
    sizes = getattr(layer, "out_features", None), getattr(layer, "in_features", None)
    return sizes if all(isinstance(size, int) for size in sizes) else None  # type: ignore[return-value]


def _factors(module: LoraModule, layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A and scaled B as the layer's hook takes them."""
    a, b = (torch.from_numpy(factor) for factor in module)
    b = b * module.scaling
    if isinstance(layer, torch.nn.Conv2d):
        a, b = a.reshape(module.rank, layer.in_channels, *layer.kernel_size), b[:, :, None, None]
    weight = layer.weight
    floats = weight.dtype if weight.dtype in (torch.float32, torch.float16, torch.bfloat16) else torch.float32
    return a.to(floats), b.to(floats)
