"""The merge methods by id, in the order in which the page offers them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from studio.core.errors import BadRecipe
from studio.merging.cat import cat
from studio.merging.dare import dare
from studio.merging.della import della
from studio.merging.knots import core, knots
from studio.merging.lego import lego
from studio.merging.linear import linear
from studio.merging.prune import breadcrumbs, prune
from studio.merging.registry import Draw, Help, Knob, Laws, Merged, Method, Range, Value
from studio.merging.slerp import slerp
from studio.merging.spectral import iso, tsv
from studio.merging.svd import svd
from studio.merging.ties import ties

__all__ = ["Draw", "Help", "Knob", "Laws", "Merged", "Method", "Range", "Value", "method_by_id", "methods"]

_METHODS = MappingProxyType(
    {
        found.id: found
        for found in (
            cat,
            svd,
            ties,
            dare,
            slerp,
            knots,
            core,
            tsv,
            della,
            breadcrumbs,
            prune,
            lego,
            iso,
            linear,
        )
    }
)


def methods() -> Mapping[str, Method]:
    """All merge methods by id."""
    return _METHODS


def method_by_id(id: str) -> Method:
    """The method of this id, or `BadRecipe` that lists what there is."""
    if id not in _METHODS:
        raise BadRecipe(f"there is no merge method {id!r}", f"the methods: {', '.join(_METHODS)}")
    return _METHODS[id]
