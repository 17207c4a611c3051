"""LoRA Loom: compose LoRA adapters. The Python face; the page and the command line call the same functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.composing.compose import compose, merge
    from studio.core.adapter import Adapter
    from studio.formats import inspect, open_adapter, save_adapter
    from studio.merging import methods
    from studio.recipes.recipe import Recipe

from studio.core.version import VERSION

__version__ = VERSION

__all__ = ["Adapter", "Recipe", "compose", "inspect", "merge", "methods", "open_adapter", "save_adapter"]

_HOMES = {
    "Adapter": "studio.core.adapter",
    "Recipe": "studio.recipes.recipe",
    "compose": "studio.composing.compose",
    "inspect": "studio.formats",
    "merge": "studio.composing.compose",
    "methods": "studio.merging",
    "open_adapter": "studio.formats",
    "save_adapter": "studio.formats",
}


def __getattr__(name: str) -> Any:
    """Import a name of the face when it is first asked for, so that `import studio` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'studio' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
