"""Image and video transformers in their original naming, taken apart into diffusers' layers, exactly; FLUX back again.

The originals fuse layers that diffusers keeps apart: `qkv` is to_q, to_k and to_v, FLUX's `linear1` those and proj_mlp.
A part takes its rows of B; A is shared, or where B is block-diagonal each part takes its own ranks. The tables are
keys/*_original.txt and keys/flux_xlabs.txt; `*4` marks a part of four times the rows. Where two models share a name,
the proportions of their layers tell them apart. Checked against diffusers' own converters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np

from studio.core.adapter import LoraModule
from studio.core.errors import Refused
from studio.core.tensors import Array
from studio.formats.modules.names import block_template, table_lines
from studio.formats.modules.pairs import PairRows

_COMPONENT = "transformer."
_BLOCK = re.compile(r"(?<=\.)\d{1,4}(?=\.)")
# No name stands in two of these.
_TABLES = ("flux_xlabs", "wan_original", "hunyuan_video_original", "sd3_original")
# d_out / d_in of layers that only one of two models with equal names has.
_FLUX2 = {"linear1": Fraction(9), "linear2": Fraction(1, 4), "mlp.0": Fraction(6), "mlp.2": Fraction(1, 3)}
_LUMINA2 = {"attention.qkv": Fraction(5, 3)}
# diffusers stores the scale's rows before the shift's here, the original after them.
_SWAPPED = "norm_out.linear"
_Pair = Callable[[], tuple[Array, Array]]


class Part(NamedTuple):
    """A layer of diffusers, and its share of the fused layer's rows."""

    name: str
    share: int = 1


Table = Mapping[str, tuple[Part, ...]]


def split_fused(modules: Mapping[str, LoraModule]) -> dict[str, LoraModule]:
    """The modules with every layer of an original naming replaced by diffusers' own; all others as they are.

    Reads B of fused layers whose rank the parts could divide, to see whether it is block-diagonal.
    Raises `Refused` where rows do not divide and where a part is given twice.
    """
    table = _table(_tables_of(modules))
    split: dict[str, LoraModule] = {}
    for name, module in modules.items():
        for part in _split(name, module, table):
            if part.name in split:
                raise Refused(f"{part.name} appears twice in the file", f"the second time in {name}")
            split[part.name] = part
    return split


def fuse(modules: Mapping[str, LoraModule]) -> dict[str, LoraModule]:
    """The modules under the original names, for writers: fused layers get a block-diagonal B, or keep one shared A.

    Parts that are not adapted get zero rows. Modules that no table has stay as they are.
    """
    waiting, table = dict(modules), _table(("flux_original",))
    fused: dict[str, LoraModule] = {}
    for name in modules:
        original = _original_of(name)
        if name not in waiting or original is None:
            continue
        parts = [Part(_COMPONENT + part.name, part.share) for part in _parts(original, table)]
        found = {part.name: waiting.pop(part.name) for part in parts if part.name in waiting}
        fused[_COMPONENT + original] = _fused(_COMPONENT + original, parts, found)
    return {**waiting, **fused}


def is_original(name: str) -> bool:
    """Whether a canonical name is a layer of FLUX's original naming."""
    return name.startswith(_COMPONENT) and bool(_parts(name.removeprefix(_COMPONENT), _table(("flux_original",))))


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
def _table(names: tuple[str, ...]) -> Table:
    """Original layer -> its parts in the order of their rows; `{}` stands for the block's number."""
    rows = (line.split() for name in names for line in table_lines(name))
    return {fused: tuple(_part(text) for text in parts) for fused, *parts in rows}


def _tables_of(modules: Mapping[str, LoraModule]) -> tuple[str, ...]:
    """The tables for these modules of one file."""
    flux = "flux2_original" if _has_layer(modules, _FLUX2, "_blocks.") else "flux_original"
    layers = "lumina2_original" if _has_layer(modules, _LUMINA2, "") else "z_image_original"
    return (*_TABLES, flux, layers)


def _has_layer(modules: Mapping[str, LoraModule], proportions: Mapping[str, Fraction], within: str) -> bool:
    """Whether some layer whose name ends so has these proportions."""
    return any(
        Fraction(module.d_out, module.d_in) == proportion
        for name, module in modules.items()
        for leaf, proportion in proportions.items()
        if name.endswith(leaf) and within in name and name.startswith(_COMPONENT)
    )


@cache
def _original_names() -> Mapping[str, str]:
    """Part -> the fused layer of the original naming that holds it."""
    return {_part(text).name: fused for fused, *parts in map(str.split, table_lines("flux_original")) for text in parts}


def _part(text: str) -> Part:
    name, _, share = text.partition("*")
    return Part(name, int(share or 1))


def _parts(name: str, table: Table) -> tuple[Part, ...]:
    number = _BLOCK.search(name)
    found = table.get(name) or table.get(block_template(name), ())
    return tuple(part._replace(name=part.name.format(number[0] if number else "")) for part in found)


def _original_of(name: str) -> str | None:
    path = name.removeprefix(_COMPONENT)
    number = _BLOCK.search(path)
    found = _original_names().get(block_template(path))
    return None if found is None or path == name else found.format(number[0] if number else "")


def _split(name: str, module: LoraModule, table: Table) -> Iterator[LoraModule]:
    parts = _parts(name.removeprefix(_COMPONENT), table) if name.startswith(_COMPONENT) else ()
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
