"""The merge methods by id, in the order in which the page offers them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from studio.core.errors import BadRecipe
from studio.core.registry import records
from studio.merging.registry import Draw, Help, Knob, Laws, Merged, Method, Range, Value

__all__ = ["Draw", "Help", "Knob", "Laws", "Merged", "Method", "Range", "Value", "method_by_id", "methods"]

_PLACES: Final = (
    "cat",
    "svd",
    "ties",
    "dare",
    "slerp",
    "knots",
    "knots:core",
    "spectral:tsv",
    "della",
    "prune:breadcrumbs",
    "prune",
    "lego",
    "spectral:iso",
    "linear",
)
"""Where each is declared: a file of this package, and the function's name where it is another."""
_METHODS: Final = records(__name__, _PLACES, Method)


def methods() -> Mapping[str, Method]:
    """All merge methods by id."""
    return _METHODS


def method_by_id(id: str) -> Method:
    """The method of this id, or `BadRecipe` that lists what there is."""
    if id not in _METHODS:
        raise BadRecipe(f"there is no merge method {id!r}", f"the methods: {', '.join(_METHODS)}")
    return _METHODS[id]
