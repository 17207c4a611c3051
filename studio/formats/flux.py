"""FLUX in its original naming, taken apart into diffusers' layers and put together again, exactly.

The original fuses layers that diffusers keeps apart: `qkv` is to_q, to_k and to_v, `linear1` those and proj_mlp. A part
takes its rows of B; A is shared, or where B is block-diagonal each part takes its own ranks. The tables are
keys/flux_original.txt (black-forest-labs, kohya) and keys/flux_xlabs.txt; `*4` marks a part of four times the rows.
Checked against diffusers' own converters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np

from studio.adapter import LoraModule
from studio.errors import Refused
from studio.formats.names import table_lines
from studio.formats.pairs import PairRows
from studio.tensors import Array

_COMPONENT = "transformer."
_BLOCK = re.compile(r"(?<=_blocks\.)\d{1,4}(?=\.)")
# diffusers stores the scale's rows before the shift's here, the original after them.
_SWAPPED = "norm_out.linear"
_Pair = Callable[[], tuple[Array, Array]]


class Part(NamedTuple):
    """A layer of diffusers, and its share of the fused layer's rows."""

    name: str
    share: int = 1


def split_fused(modules: Mapping[str, LoraModule]) -> dict[str, LoraModule]:
    """The modules with every original FLUX layer replaced by diffusers' own; all others as they are.

    Reads B of fused layers whose rank the parts could divide, to see whether it is block-diagonal.
    Raises `Refused` where rows do not divide and where a part is given twice.
    """
    split: dict[str, LoraModule] = {}
    for name, module in modules.items():
        for part in _split(name, module):
            if part.name in split:
                raise Refused(f"{part.name} stands twice in the file", f"the second time in {name}")
            split[part.name] = part
    return split


def fuse(modules: Mapping[str, LoraModule]) -> dict[str, LoraModule]:
    """The modules under the original names, for writers: fused layers get a block-diagonal B, or keep one shared A.

    Parts that are not adapted get zero rows. Modules that no table has stay as they are.
    """
    waiting = dict(modules)
    fused: dict[str, LoraModule] = {}
    for name in modules:
        original = _original_of(name)
        if name not in waiting or original is None:
            continue
        parts = [Part(_COMPONENT + part.name, part.share) for part in _parts(original)]
        found = {part.name: waiting.pop(part.name) for part in parts if part.name in waiting}
        fused[_COMPONENT + original] = _fused(_COMPONENT + original, parts, found)
    return {**waiting, **fused}


def is_original(name: str) -> bool:
    """Whether a canonical name is a layer of FLUX's original naming."""
    return name.startswith(_COMPONENT) and bool(_parts(name.removeprefix(_COMPONENT)))


@dataclass(frozen=True, slots=True, eq=False)
class _Swapped:
    """Reads a pair with the two halves of its rows exchanged."""

    pair: _Pair

    def __call__(self) -> tuple[Array, Array]:
        a, b = self.pair()
        half = b.shape[0] // 2
        return a, np.concatenate([b[half:], b[:half]])


@dataclass(frozen=True, slots=True, eq=False)
class _Fused:
    """Reads several pairs as one: A stacked and B block-diagonal, or one A for all; scalings folded in."""

    parts: tuple[LoraModule | None, ...]
    heights: tuple[int, ...]
    share_a: bool

    def __call__(self) -> tuple[Array, Array]:
        downs: list[Array] = []
        columns: list[Array] = []
        for index, module in enumerate(self.parts):
            if module is None:
                continue
            a, b = module
            column = np.zeros((sum(self.heights), module.rank), np.float32)
            start = sum(self.heights[:index])
            column[start : start + self.heights[index]] = module.scaling * b
            downs.append(a)
            columns.append(column)
        if self.share_a:
            return downs[0], np.sum(columns, axis=0, dtype=np.float32)
        return np.vstack(downs), np.hstack(columns)


@cache
def _table() -> Mapping[str, tuple[Part, ...]]:
    """Fused layer -> its parts in the order of their rows; `{}` stands for the block's number."""
    rows = (line.split() for table in ("flux_original", "flux_xlabs") for line in table_lines(table))
    return {fused: tuple(_part(text) for text in parts) for fused, *parts in rows}


@cache
def _original_names() -> Mapping[str, str]:
    """Part -> the fused layer of the original naming that holds it."""
    return {_part(text).name: fused for fused, *parts in map(str.split, table_lines("flux_original")) for text in parts}


def _part(text: str) -> Part:
    name, _, share = text.partition("*")
    return Part(name, int(share or 1))


def _parts(name: str) -> tuple[Part, ...]:
    number = _BLOCK.search(name)
    found = _table().get(_BLOCK.sub("{}", name, count=1), ())
    return tuple(part._replace(name=part.name.format(number[0] if number else "")) for part in found)


def _original_of(name: str) -> str | None:
    path = name.removeprefix(_COMPONENT)
    number = _BLOCK.search(path)
    found = _original_names().get(_BLOCK.sub("{}", path, count=1))
    return None if found is None or path == name else found.format(number[0] if number else "")


def _split(name: str, module: LoraModule) -> Iterator[LoraModule]:
    parts = _parts(name.removeprefix(_COMPONENT)) if name.startswith(_COMPONENT) else ()
    if not parts:
        yield module
        return
    whole = sum(part.share for part in parts)
    if module.d_out % whole:
        raise Refused(f"{name} cannot be split into {len(parts)} layers", f"it has {module.d_out} rows")
    bounds = _bounds([module.d_out // whole * part.share for part in parts])
    ranks = _ranks(module, bounds)
    for part, rows, own in zip(parts, bounds, ranks, strict=True):
        load: _Pair = module.load if len(parts) == 1 else PairRows(module.load, rows, own)
        rank = own.stop - own.start
        yield replace(
            module,
            name=_COMPONENT + part.name,
            rank=rank,
            d_out=rows.stop - rows.start,
            load=_Swapped(load) if part.name == _SWAPPED else load,
            stored_alpha=module.stored_alpha if rank == module.rank else None,
        )


def _bounds(heights: Sequence[int]) -> list[slice]:
    ends = np.cumsum(heights).tolist()
    return [slice(end - height, end) for end, height in zip(ends, heights, strict=True)]


def _ranks(module: LoraModule, rows: Sequence[slice]) -> list[slice]:
    """Every part's ranks: all of them, or equal shares where B is block-diagonal."""
    shared = [slice(0, module.rank)] * len(rows)
    if len(rows) == 1 or module.rank % len(rows):
        return shared
    own = _bounds([module.rank // len(rows)] * len(rows))
    b = module.B
    off = (np.delete(b[r], np.arange(module.rank)[c], axis=1) for r, c in zip(rows, own, strict=True))
    return shared if any(block.any() for block in off) else own


def _fused(name: str, parts: Sequence[Part], found: Mapping[str, LoraModule]) -> LoraModule:
    first = next(iter(found.values()))
    if len(parts) == 1:
        is_swapped = first.name == _COMPONENT + _SWAPPED
        return replace(first, name=name, load=_Swapped(first.load) if is_swapped else first.load)
    unit = next(found[part.name].d_out // part.share for part in parts if part.name in found)
    heights = tuple(unit * part.share for part in parts)
    shapes = [(found[part.name].shape, (unit * part.share, first.d_in)) for part in parts if part.name in found]
    if any(shape != expected for shape, expected in shapes):
        raise Refused(f"{name} cannot be put together", "its parts do not have FLUX's proportions")
    members = tuple(found.get(part.name) for part in parts)
    share_a = _same_a(list(found.values()))
    rank = first.rank if share_a else sum(module.rank for module in found.values())
    load = _Fused(members, heights, share_a)
    return LoraModule(name, rank, first.d_in, sum(heights), 1.0, load, dtype=first.dtype)


def _same_a(modules: Sequence[LoraModule]) -> bool:
    first = modules[0].A
    return all(module.rank == len(first) and np.array_equal(module.A, first) for module in modules[1:])
