"""Modules of equal shape, gathered so that one tensor operation serves them all; streamed within a memory budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from studio.core.adapter import Adapter, LoraModule
from studio.core.errors import BadRecipe, CannotMerge
from studio.core.late import torch
from studio.core.linalg import Pair, Pairs, canonical

if TYPE_CHECKING:
    from torch import Tensor


class Edits(Protocol):
    """Factors for single units of one source, by module and unit number, in raw or canonical form."""

    @property
    def form(self) -> str: ...  # noqa: D102

    @property
    def scale(self) -> Mapping[str, Mapping[int, float]]: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """A batch of modules that look alike: the same sources adapt them, with the same shapes and ranks.

    `pairs[j]` belongs to source `sources[j]` and has the modules as leading dimension, its scaling split evenly
    between A and B. `like` is one of the modules, for kind and kernel.
    """

    names: tuple[str, ...]
    sources: tuple[int, ...]
    pairs: Pairs
    like: LoraModule

    def __len__(self) -> int:
        return len(self.names)

    def part(self, rows: Sequence[int], columns: Sequence[int]) -> Stack:
        """Some of the modules, and some of the sources."""
        index = torch.as_tensor(list(rows))
        pairs = Pairs(Pair(self.pairs[j].A[index], self.pairs[j].B[index]) for j in columns)
        return Stack(tuple(self.names[i] for i in rows), tuple(self.sources[j] for j in columns), pairs, self.like)


class _Shape(NamedTuple):
    """What modules must share to be stacked: (source, rank) of each, d_out, d_in, and how the pair is to be read."""

    ranks: tuple[tuple[int, int], ...]
    d_out: int
    d_in: int
    kind: str
    kernel: tuple[int, ...] | None


def module_names(adapters: Sequence[Adapter]) -> list[str]:
    """Every module that some adapter has, in the adapters' own order."""
    return list(dict.fromkeys(name for adapter in adapters for name in adapter.modules))


def stacks(adapters: Sequence[Adapter], *, budget: int, dense: bool = False, device: str = "cpu") -> Iterator[Stack]:
    """Gather the adapters' modules into stacks whose working memory, with dense deltas if `dense`, stays near
    `budget` bytes; their factors lie on `device`.

    Raises `CannotMerge` where two adapters disagree about a module's shape. A module larger than the budget comes
    alone.
    """
    groups: dict[_Shape, list[str]] = {}
    for name in module_names(adapters):
        groups.setdefault(_shape(name, adapters), []).append(name)
    for shape, names in groups.items():
        size = max(1, budget // _bytes(shape, dense))
        for start in range(0, len(names), size):
            yield _gather(names[start : start + size], shape, adapters, device)


def parts(stack: Stack, weights: Tensor, edits: Sequence[Edits]) -> Iterator[tuple[Stack, Tensor]]:
    """Split a stack so that in each part no weight is zero and unit edits are done; `weights` is (modules, sources).

    A source of weight 0 is gone, and so is one whose every unit is muted. Modules that nobody is left for are not
    yielded.
    """
    alive = (weights != 0).tolist()
    groups: dict[tuple[str, tuple[bool, ...]], list[int]] = {}
    for row, name in enumerate(stack.names):
        own = name if any(edits[source].scale.get(name) for source in stack.sources) else ""
        groups.setdefault((own, tuple(alive[row])), []).append(row)
    for (own, mask), rows in groups.items():
        columns = [j for j, keep in enumerate(mask) if keep]
        part = stack.part(rows, columns) if len(rows) < len(stack) or len(columns) < len(mask) else stack
        part = _edited(part, edits) if own else part
        kept = [j for j, pair in enumerate(part.pairs) if pair.rank]
        if kept:
            part = part if len(kept) == len(part.pairs) else part.part(range(len(part)), kept)
            index = [stack.sources.index(source) for source in part.sources]
            yield part, weights[rows][:, index]


def _edited(part: Stack, edits: Sequence[Edits]) -> Stack:
    name = part.names[0]
    pairs = Pairs(
        edited(name, pair, edits[source]) if edits[source].scale.get(name) else pair
        for source, pair in zip(part.sources, part.pairs, strict=True)
    )
    return Stack(part.names, part.sources, pairs, part.like)


def _shape(name: str, adapters: Sequence[Adapter]) -> _Shape:
    present = [(i, adapter.modules[name]) for i, adapter in enumerate(adapters) if name in adapter.modules]
    first, like = present[0]
    for i, module in present[1:]:
        if (module.shape, module.kind, module.kernel) != (like.shape, like.kind, like.kernel):
            one, other = adapters[first].name, adapters[i].name
            raise CannotMerge(
                f"{name} is {like.d_out} x {like.d_in} in {one} and {module.d_out} x {module.d_in} in {other}",
                "they were trained on different base models",
                "remove one of the two",
            )
    return _Shape(tuple((i, module.rank) for i, module in present), like.d_out, like.d_in, like.kind, like.kernel)


def _bytes(shape: _Shape, dense: bool) -> int:
    """Working memory of one module: float64 factors twice over, or about five dense float64 matrices."""
    rank = sum(rank for _, rank in shape.ranks)
    return 5 * 8 * shape.d_out * shape.d_in if dense else 2 * 8 * rank * (shape.d_out + shape.d_in)


def _gather(names: Sequence[str], shape: _Shape, adapters: Sequence[Adapter], device: str) -> Stack:
    sources = tuple(i for i, _ in shape.ranks)
    pairs = Pairs(_pair([adapters[i].modules[name] for name in names], device) for i in sources)
    return Stack(tuple(names), sources, pairs, adapters[sources[0]].modules[names[0]])


def _pair(modules: Sequence[LoraModule], device: str) -> Pair:
    like = modules[0]
    downs = np.empty((len(modules), like.rank, like.d_in), np.float32)
    ups = np.empty((len(modules), like.d_out, like.rank), np.float32)
    for module, down, up in zip(modules, downs, ups, strict=True):  # one at a time: a batch is held once, not twice
        down[...], up[...] = module.load()
    a, b = torch.from_numpy(downs).to(device), torch.from_numpy(ups).to(device)
    if all(module.scaling == 1 for module in modules):
        return Pair(a, b)
    return Pair(a, b).scaled(torch.tensor([module.scaling for module in modules], dtype=torch.float64))


def edited(module: str, pair: Pair, edits: Edits) -> Pair:
    """The pair with its units scaled one by one; a unit scaled by 0 is gone, and the rank falls with it.

    Raises `BadRecipe` for a unit beyond the pair's rank.
    """
    scales = edits.scale[module]
    beyond = [index for index in scales if not 0 <= index < pair.rank]
    if beyond:
        raise BadRecipe(f"{module} has no unit {beyond[0]}", f"its units are 0 to {pair.rank - 1}")
    pair = canonical(pair).single() if edits.form == "canonical" else pair
    factors = torch.tensor([scales.get(t, 1.0) for t in range(pair.rank)], dtype=pair.B.dtype, device=pair.B.device)
    keep = torch.nonzero(factors)[:, 0]
    return Pair(pair.A[..., keep, :], (pair.B * factors)[..., keep])
