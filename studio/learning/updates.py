"""A view of a base whose layers add low-rank updates that gradients flow through: y = W x + B (g * (A x)).

The base stays frozen and shared, as in `studio.text.rows`; what trains is the gate g, or the factors, of the view.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from studio.core.adapter import Adapter
from studio.core.late import torch
from studio.evaluation.score import Table, answer_logits, table_of
from studio.learning.data import batch_rows
from studio.text.bases import TextBase
from studio.text.rows import stack_factors
from studio.text.skills import Item

if TYPE_CHECKING:
    from torch import Tensor

Gate = Callable[[], "Tensor"]

_WHOLE = 32  # rows read at once where no gradient is needed


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """One layer's update: down (d_in, R), up (R, d_out), scaling inside; `gate()` gives g (R,), None is all ones."""

    down: Tensor
    up: Tensor
    gate: Gate | None = None

    def __call__(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The layer's forward hook. The gate stays float32 until it meets the activations."""
        is_embedding = isinstance(layer, torch.nn.Embedding)
        hidden = self.down[inputs[0]] if is_embedding else inputs[0] @ self.down
        gated = hidden if self.gate is None else hidden * self.gate().to(hidden.dtype)
        return output + (gated @ self.up) * (getattr(layer, "embed_scale", 1.0) if is_embedding else 1.0)


def view_with_updates(model: Any, updates: Mapping[str, Update]) -> Any:
    """A view of the model that shares its weights and adds the updates; drop it after use."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    shared[id(model.config)] = model.config
    view = copy.deepcopy(model, shared)
    for name, update in updates.items():
        view.get_submodule(name).register_forward_hook(update)
    return view


@dataclass(frozen=True, slots=True, eq=False)
class Stacked:
    """Adapters side by side at one layer: down (d_in, R), up (R, d_out); `ranks` (N,), 0 where one leaves it alone."""

    down: Tensor
    up: Tensor
    ranks: tuple[int, ...]


def stack_adapters(model: Any, adapters: Sequence[Adapter]) -> dict[str, Stacked]:
    """The concatenation of the adapters by layer; raises `WrongBase` where one does not fit."""
    single = [stack_factors(model, [adapter]) for adapter in adapters]
    names = dict.fromkeys(name for factors in single for name in factors)
    found = {}
    for name in names:
        present = [factors[name] for factors in single if name in factors]
        ranks = tuple(factors[name].down.shape[-1] if name in factors else 0 for factors in single)
        down, up = torch.cat([f.down[0] for f in present], 1), torch.cat([f.up[0] for f in present], 0)
        found[name] = Stacked(down, up, ranks)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class AnswerLoss:
    """The mean cross-entropy of the answers' tokens, prompts masked, of a view; by batch for training, whole else."""

    view: Any
    table: Table
    batch: int
    seed: int

    def __call__(self, step: int) -> Tensor:
        """The loss of one step's batch, with gradient."""
        rows = batch_rows(len(self.table), self.batch, step, self.seed)
        logits, targets = answer_logits(self.view, self.table.take(rows))
        loss: Tensor = torch.nn.functional.cross_entropy(logits.float(), targets)
        return loss

    def whole(self) -> float:
        """The mean over the whole table, in nats an answer token, without gradient."""
        total, count = 0.0, 0
        with torch.no_grad():
            for start in range(0, len(self.table), _WHOLE):
                rows = torch.arange(start, min(start + _WHOLE, len(self.table)))
                logits, targets = answer_logits(self.view, self.table.take(rows))
                total += float(torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum"))
                count += len(targets)
        return total / count


def answer_loss(base: TextBase, view: Any, items: Sequence[Item], *, batch: int = 8, seed: int = 0) -> AnswerLoss:
    """The loss of these items over this view of the base."""
    return AnswerLoss(view, table_of(base, items), batch, seed)
