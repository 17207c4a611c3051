"""A view of a base in which all adapters lie side by side, each row of a batch weighing them as a router says.

y = W x + sum_i w_i s_i B_i A_i x, with w by row, or by row and token. The adapters keep their own scaling s_i; a frozen
ready-made adapter is worth what it was trained at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from studio.core.adapter import Adapter, in_memory_module
from studio.core.errors import BadRecipe
from studio.core.late import torch
from studio.learning.coefficients import group_of
from studio.learning.updates import Stacked, Update, stack_adapters, view_with_updates

if TYPE_CHECKING:
    from torch import Tensor

Ask = Callable[[int, "Tensor"], "Tensor"]
"""(group, block input (rows, T, D)) to weights (rows, 1 or T, n)."""


@dataclass(eq=False)
class Mixing:
    """The weights (rows, 1 or T, n) that each group's modules use now; by layer, `ask` sets them as a block is entered.

    One view has one of these, and one thread uses it.
    """

    weights: dict[int, Tensor] = field(default_factory=dict)
    ask: Ask | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Gate:
    """The gate of one module's units: the weight of the adapter each belongs to, (rows, 1 or T, R)."""

    mixing: Mixing
    group: int
    owner: Tensor

    def __call__(self) -> Tensor:
        return self.mixing.weights[self.group][..., self.owner]


@dataclass(frozen=True, slots=True, eq=False)
class _Entered:
    """The hook before a block: its input decides the weights of its modules."""

    mixing: Mixing
    group: int

    def __call__(self, block: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self.mixing.ask is not None:
            self.mixing.weights[self.group] = self.mixing.ask(self.group, given[0] if given else named["hidden_states"])


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Adapters side by side over a base: the view, what it reads its weights from, and the groups of its modules.

    `groups` is ("all",) or the names of the blocks; `stacks` hold the factors, by module.
    """

    adapters: tuple[Adapter, ...]
    view: Any
    mixing: Mixing
    groups: tuple[str, ...]
    stacks: dict[str, Stacked]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every factor, down and up by turns: what trains where the adapters do."""
        return tuple(tensor for stacked in self.stacks.values() for tensor in (stacked.down, stacked.up))

    def trained(self, tensors: Sequence[Tensor]) -> tuple[Adapter, ...]:
        """The adapters with these factors in place of theirs, in the order of `tensors`; the scaling stays."""
        pairs = dict(zip(self.stacks, zip(tensors[::2], tensors[1::2], strict=True), strict=True))
        return tuple(self._trained(place, adapter, pairs) for place, adapter in enumerate(self.adapters))

    def _trained(self, place: int, adapter: Adapter, pairs: dict[str, tuple[Tensor, Tensor]]) -> Adapter:
        modules = dict(adapter.modules)
        for name, old in adapter.modules.items():
            ranks, (down, up) = self.stacks[name].ranks, pairs[name]
            own = slice(sum(ranks[:place]), sum(ranks[: place + 1]))
            a, b = down[:, own].T.float().cpu().numpy(), (up[own].T.float() / old.scaling).cpu().numpy()
            modules[name] = in_memory_module(name, a, b, old.scaling, kind=old.kind)
        return Adapter(adapter.name, modules, "peft", "trained with its router", base=adapter.base)


def mix_adapters(model: Any, adapters: Sequence[Adapter], *, by_layer: bool = False) -> Mixture:
    """Lay adapters side by side over a model; `by_layer`, each decoder block decides for its own modules.

    Raises `WrongBase` where one does not fit, `BadRecipe` for a layer router over modules that lie in no block.
    """
    stacks = stack_adapters(model, adapters)
    groups = tuple(dict.fromkeys(group_of(name, "layer") for name in stacks)) if by_layer else ("all",)
    outside = [group for group in groups if by_layer and group in stacks]
    if outside:
        raise BadRecipe(f"{outside[0]} lies in no layer", "a router by layer cannot reach it", "use a shared router")
    mixing = Mixing()
    updates = {name: _update(name, stacked, mixing, groups) for name, stacked in stacks.items()}
    view = view_with_updates(model, updates)
    for place, group in enumerate(groups if by_layer else ()):
        view.get_submodule(group).register_forward_pre_hook(_Entered(mixing, place), with_kwargs=True)
    return Mixture(tuple(adapters), view, mixing, groups, stacks)


def _update(name: str, stacked: Stacked, mixing: Mixing, groups: tuple[str, ...]) -> Update:
    group = groups.index(group_of(name, "layer")) if len(groups) > 1 or groups != ("all",) else 0
    owner = torch.arange(len(stacked.ranks)).repeat_interleave(torch.tensor(stacked.ranks))
    return Update(stacked.down, stacked.up, _Gate(mixing, group, owner.to(stacked.down.device)))
