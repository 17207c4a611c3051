"""The router kinds by id, in the order in which the page offers them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from studio.core.errors import BadRecipe
from studio.core.registry import records
from studio.routing.kinds.registry import RouterKind

__all__ = ["RouterKind", "kind_by_id", "kinds", "trainable"]

_KINDS: Final = records(__name__, ("remix", "softmax", "topk", "uniform"), RouterKind)


def kinds() -> Mapping[str, RouterKind]:
    """All router kinds by id."""
    return _KINDS


def trainable() -> Mapping[str, RouterKind]:
    """Those that can be trained, and so be chosen."""
    return {id: kind for id, kind in _KINDS.items() if kind.trained_by != "nothing"}


def kind_by_id(id: str) -> RouterKind:
    """The kind of this id, or `BadRecipe` that lists what there is."""
    if id not in _KINDS:
        raise BadRecipe(f"There is no router kind {id!r}", f"the kinds: {', '.join(_KINDS)}")
    return _KINDS[id]
