"""RegMean: the merge whose outputs are nearest to each adapter's own on that adapter's own inputs (arXiv 2212.09849).

dW = (sum_i dW_i G_i)(sum_i G_i)^-1 with G_i the Gram matrix of the inputs that adapter i sees. For LoRA that is exactly
low-rank, sum_i B_i (A_i G_i G^-1): only the A factors change, no dense delta is built and nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.core.adapter import Adapter, LoraModule, in_memory_module
from studio.core.errors import CannotMerge
from studio.core.late import torch
from studio.core.linalg import Pair
from studio.evaluation.score import table_of
from studio.learning.updates import Update, stack_adapters, view_with_updates
from studio.merging import regmean as merging
from studio.text.bases import TextBase
from studio.text.skills import Item

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 16  # items read at once


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """A forward hook that adds up X^T X of a layer's inputs, padding left out; float64."""

    gram: Tensor
    keep: list[Tensor]

    def __call__(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0][self.keep[-1]].double()
        self.gram.add_(x.mT @ x)


def input_grams(base: TextBase, adapter: Adapter, items: Sequence[Item]) -> dict[str, Tensor]:
    """Gram matrices (d_in, d_in) of the inputs of each linear layer that the adapter adapts, on items, by layer."""
    updates = {name: Update(s.down, s.up) for name, s in stack_adapters(base.model, [adapter]).items()}
    view, table, keep = view_with_updates(base.model, updates), table_of(base, items), list[torch.Tensor]()
    found: dict[str, Tensor] = {}
    for name, update in updates.items():
        if adapter.modules[name].kind == "linear":
            width = len(update.down)
            found[name] = torch.zeros(width, width, dtype=torch.float64, device=update.down.device)
            view.get_submodule(name).register_forward_hook(_Inputs(found[name], keep))
    with torch.no_grad():
        for start in range(0, len(table), _ROWS):
            part = table.take(torch.arange(start, min(start + _ROWS, len(table))))
            after = part.answer.flip(1).int().cumsum(1).flip(1) > 0  # up to the last answer token
            keep.append(after)
            view(input_ids=part.ids, use_cache=False)
    return found


def regmean(adapters: Sequence[Adapter], grams: Sequence[Mapping[str, Tensor]], *, shrink: float = 0.9) -> Adapter:
    """The merge, from each adapter's own Gram matrices; their off-diagonals count `shrink` (0.9 is usual).

    Modules without Gram matrices (embeddings) raise `CannotMerge`. A module of one adapter comes back as it is.
    """
    modules = {}
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.modules):
        present = [
            (a.modules[name], g[name]) for a, g in zip(adapters, grams, strict=True) if name in a.modules and name in g
        ]
        if len(present) < sum(name in adapter.modules for adapter in adapters):
            raise CannotMerge(f"{name} has no activations", "RegMean merges linear layers", "leave it out")
        pairs = [_pair(module, gram) for module, gram in present]
        a, b = merging.regmean(pairs, [gram for _, gram in present], keep=shrink)
        modules[name] = in_memory_module(name, a.cpu().numpy(), b.cpu().numpy())
    return Adapter("regmean", modules, "peft", "composed by regmean", base=adapters[0].base)


def _pair(module: LoraModule, like: Tensor) -> Pair:
    a, b = module.load()
    return Pair(torch.from_numpy(a).to(like.device), torch.from_numpy(module.scaling * b).to(like.device))
