"""Minimal semantic units, module by module: row t of A joined with column t of B (LoRA-LEGO, arXiv 2409.16167).

A unit is the rank-one delta b a^T. Every unit of a module lives in the same space whatever adapter it comes from, so
the units of several adapters form one pool; pools are read one at a time and no dense delta is ever built.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from studio.core.adapter import Adapter, LoraModule
from studio.core.late import torch
from studio.core.linalg import Pair, canonical

if TYPE_CHECKING:
    from torch import Tensor

Form = Literal["raw", "canonical"]

_WRAPPERS = {"base_model", "model", "transformer", "module"}
_SUBBLOCKS = {"attentions", "resnets", "downsamplers", "upsamplers"}


@dataclass(frozen=True, slots=True)
class Scope:
    """Which modules to look at: all of them, one layer (as `layer_of` names it), or one module."""

    layer: str | None = None
    module: str | None = None

    def holds(self, name: str) -> bool:
        """Whether the module of this dotted name is inside."""
        return self.module in (None, name) and self.layer in (None, layer_of(name))


EVERYTHING = Scope()


@dataclass(frozen=True, slots=True)
class Place:
    """A module as units see it. The shape is part of it: two bases may use one name for different things."""

    name: str
    d_out: int
    d_in: int


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The units of one module: n units as rows, in the order of the adapters and then of the rank index.

    a (n, d_in) and b (n, d_out), float32, with the module's scaling inside: its root in both, its sign in b.
    `adapter` (n,) and `rank` (n,) say where each comes from.
    """

    place: Place
    adapter: Tensor
    rank: Tensor
    a: Tensor
    b: Tensor


def places_of(adapters: Iterable[Adapter], scope: Scope = EVERYTHING) -> tuple[Place, ...]:
    """All modules in scope, in the order in which the adapters first name them."""
    modules = (module for adapter in adapters for module in adapter.modules.values())
    return tuple(dict.fromkeys(_place(module) for module in modules if scope.holds(module.name)))


def pools(adapters: Sequence[Adapter], *, form: Form = "canonical", scope: Scope = EVERYTHING) -> Iterator[Pool]:
    """Read the pools one module at a time, in the order of `places_of`.

    `raw` units are the rows as they were trained, as published. They are not unique: (B R^-1)(R A) is the same delta.
    `canonical` units are the singular directions of each adapter's module, |a| = |b| = sqrt(sigma), with the sign that
    makes the entry of largest magnitude in b positive. Factors that are not finite are left out.
    """
    for place in places_of(adapters, scope):
        parts: list[tuple[int, Pair]] = []
        for index, adapter in enumerate(adapters):
            module = adapter.modules.get(place.name)
            if module is not None and _place(module) == place and module.rank > 0:
                pair = _scaled(module)
                if bool(pair.A.isfinite().all() and pair.B.isfinite().all()):
                    parts.append((index, canonical(pair).single() if form == "canonical" else pair))
        if parts:
            yield _join(place, parts)


def layer_of(name: str) -> str:
    """The block a module belongs to: its path up to the first number, wrappers such as `model.` left off.

    `transformer.h.3.attn.c_attn` is in `h.3`, `model.decoder.layers.0.fc1` in `decoder.layers.0`, and a UNet's
    `down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q` in `down_blocks.0.attentions.1`. Without a number it
    is the parent path, or the name itself.
    """
    return _split(name)[0]


def module_type_of(name: str) -> str:
    """What the module is inside its block, numbers left out: `attn.c_attn`, `self_attn.q_proj`, `output.dense`."""
    return _split(name)[1]


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """A sort key that puts `h.10` behind `h.9`."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part)


def _split(name: str) -> tuple[str, str]:
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS and not parts[1].isdigit():
        parts = parts[1:]
    end = next((i + 1 for i, part in enumerate(parts) if i and part.isdigit()), 0)
    while end and end + 1 < len(parts) and parts[end] in _SUBBLOCKS and parts[end + 1].isdigit():
        end += 2
    end = end or max(len(parts) - 1, 1)
    rest = [part for part in parts[end:] if not part.isdigit()]
    return ".".join(parts[:end]), ".".join(rest) or parts[0]


def _place(module: LoraModule) -> Place:
    return Place(module.name, module.d_out, module.d_in)


def _scaled(module: LoraModule) -> Pair:
    a, b = (torch.from_numpy(np.ascontiguousarray(factor, np.float32)) for factor in module)
    return Pair(a, b).scaled(module.scaling)


def _join(place: Place, parts: Sequence[tuple[int, Pair]]) -> Pool:
    return Pool(
        place,
        torch.cat([torch.full((pair.rank,), index) for index, pair in parts]),
        torch.cat([torch.arange(pair.rank) for _, pair in parts]),
        torch.cat([pair.A for _, pair in parts]),
        torch.cat([pair.B.mT for _, pair in parts]),
    )
