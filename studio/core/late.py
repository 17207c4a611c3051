"""Heavy packages, imported when they are first touched and not before.

The page opens, files are inspected and the command line answers without torch, transformers, peft, diffusers or umap.
`from studio.core.late import torch` gives the real module at its first attribute, so engine code reads as if it were
imported.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from studio.core.errors import NotAtHand

__all__ = ["diffusers", "is_loaded", "peft", "torch", "transformers", "umap"]


class _Late:
    """A stand-in for a module; the first attribute imports it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: ModuleType | None = None

    def __getattr__(self, attribute: str) -> Any:
        if self._module is None:
            self._module = _imported(self._name)
        return getattr(self._module, attribute)

    def __repr__(self) -> str:
        return f"<late module {self._name!r}>"


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        raise NotAtHand(f"The package {missing} is not installed", "this needs it", f"pip install {missing}") from error


def is_loaded(name: str) -> bool:
    """Whether the package has really been imported in this process."""
    return name in sys.modules


if TYPE_CHECKING:
    import diffusers
    import peft
    import torch
    import transformers
    import umap
else:
    torch = _Late("torch")
    transformers = _Late("transformers")
    peft = _Late("peft")
    diffusers = _Late("diffusers")
    umap = _Late("umap")
