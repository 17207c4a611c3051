"""Many adapters over one base in one batch: row r gets its own low-rank pair, y_r = W x_r + B_r (A_r x_r).

The pairs of several rows are zero-padded to one rank and stacked, so that a layer's updates are two batched products
(the idea of S-LoRA, arXiv:2311.03285). The base is never altered: a *view* of it copies the tree of layers, a few
milliseconds, shares every weight, and carries the forward hooks.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from studio.core.adapter import Adapter
from studio.core.errors import LoomError
from studio.core.late import torch, transformers


class WrongBase(LoomError):
    """An adapter's modules that the base lacks, or has in another shape."""


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """The pairs of n consecutive rows for one layer: down (n, d_in, R), up (n, R, d_out), scaling folded into up."""

    down: torch.Tensor
    up: torch.Tensor


Stack = Mapping[str, Factors]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A stack and the first of the batch rows it belongs to."""

    first: int
    stack: Stack


def stack_factors(model: Any, adapters: Sequence[Adapter]) -> Stack:
    """One row of factors an adapter, by layer, on its device and in its dtype; zeros where an adapter leaves it alone.

    Raises `WrongBase` where an adapter does not fit the model. R is the largest rank among the adapters at that layer:
    a `cat` merge of n adapters of rank r costs rank n r, nothing is compressed here.
    """
    layers = dict(model.named_modules())
    for adapter in adapters:
        _check_fits(adapter, layers)
    names = dict.fromkeys(name for adapter in adapters for name in adapter.modules)
    return {name: _stack_layer(layers[name], name, adapters) for name in names}


def _stack_layer(layer: Any, name: str, adapters: Sequence[Adapter]) -> Factors:
    modules = [adapter.modules.get(name) for adapter in adapters]
    present = [module for module in modules if module is not None]
    rank, (d_out, d_in) = max(module.rank for module in present), present[0].shape
    like = layer.weight
    down = torch.zeros(len(modules), d_in, rank, dtype=like.dtype, device=like.device)
    up = torch.zeros(len(modules), rank, d_out, dtype=like.dtype, device=like.device)
    for row, module in enumerate(modules):
        if module is not None:
            a, b = module
            down[row, :, : module.rank] = torch.tensor(a).T
            up[row, : module.rank] = torch.tensor(b).T * module.scaling
    return Factors(down, up)


def _check_fits(adapter: Adapter, layers: Mapping[str, Any]) -> None:
    """Every module of the adapter must be a layer of the base, of the same shape and of a sort that has rows."""
    missing = [name for name in adapter.modules if name not in layers]
    if missing:
        raise WrongBase(
            f"{adapter.name} adapts {len(missing)} of {len(adapter.modules)} modules that the base does not have",
            f"such as {', '.join(missing[:3])}",
            "choose the base it was trained on",
        )
    for name, module in adapter.modules.items():
        shape = _update_shape(layers[name], name)
        if shape is None:
            raise WrongBase(
                f"{name} cannot be previewed",
                f"it is a {type(layers[name]).__name__}; linear and embedding layers can be",
            )
        if shape != module.shape:
            raise WrongBase(
                f"{adapter.name} has {module.shape} for {name}",
                f"the base has {shape}",
                "choose the base it was trained on",
            )


def _update_shape(layer: Any, name: str) -> tuple[int, int] | None:
    """(d_out, d_in) of the update a layer takes; None where rows cannot be told apart or for other sorts."""
    if ".experts." in name:  # an expert sees the tokens routed to it, not the rows of the batch
        return None
    if isinstance(layer, torch.nn.Linear):
        return layer.out_features, layer.in_features
    if isinstance(layer, transformers.Conv1D):
        return layer.weight.shape[1], layer.weight.shape[0]
    if isinstance(layer, torch.nn.Embedding) and (type(layer) is torch.nn.Embedding or hasattr(layer, "embed_scale")):
        return layer.embedding_dim, layer.num_embeddings
    return None


def view_with_rows(model: Any, rows: int, blocks: Sequence[Block], *, each: int = 1) -> Any:
    """A view of the model for batches of `rows` rows, each with its factors; rows outside all blocks are stock rows.

    With `each`, a row stands for that many texts: the batch has rows * each of them, the first row's texts first. The
    view shares the weights, so it costs no memory to speak of; drop it after use.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    shared[id(model.config)] = model.config
    view = copy.deepcopy(model, shared)
    for name in dict.fromkeys(name for block in blocks for name in block.stack):
        layer = view.get_submodule(name)
        updates = tuple((block.first, block.stack[name]) for block in blocks if name in block.stack)
        is_embedding = isinstance(layer, torch.nn.Embedding)
        kind = _EmbeddingRows if is_embedding else _LinearRows
        layer.register_forward_hook(kind(rows, each, updates))
    return view


@dataclass(frozen=True, slots=True, eq=False)
class _LinearRows:
    """The forward hook of a linear layer; x is (texts, T, d_in), or (texts * T, d_in) where a model flattens it."""

    rows: int
    each: int
    updates: tuple[tuple[int, Factors], ...]

    def __call__(self, layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        x = inputs[0]
        texts = self.rows * self.each
        if len(x) != texts and (x.ndim != 2 or len(x) % texts):
            raise LoomError(f"A layer got {tuple(x.shape)}", f"it is not a batch of {texts}", "choose another base")
        x, y = x.reshape(self.rows, -1, x.shape[-1]), output.reshape(self.rows, -1, output.shape[-1])
        for first, factors in self.updates:
            at = slice(first, first + len(factors.down))
            y[at].baddbmm_(torch.bmm(x[at], factors.down), factors.up)
        return y.reshape(output.shape)


@dataclass(frozen=True, slots=True, eq=False)
class _EmbeddingRows:
    """The forward hook of an embedding; ids are (texts, T), or (1, T) where all texts share them, as positions do."""

    rows: int
    each: int
    updates: tuple[tuple[int, Factors], ...]

    def __call__(self, layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        texts = self.rows * self.each
        ids = inputs[0].expand(texts, -1).reshape(self.rows, -1)
        y = output.expand(texts, -1, -1).clone()
        grouped = y.view(self.rows, -1, y.shape[-1])
        scale = getattr(layer, "embed_scale", 1.0)
        for first, factors in self.updates:
            at = slice(first, first + len(factors.down))
            row = torch.arange(len(factors.down), device=ids.device)[:, None]
            grouped[at] += torch.bmm(factors.down[row, ids[at]], factors.up) * scale
        return y
