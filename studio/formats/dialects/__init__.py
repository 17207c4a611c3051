"""Dialects by id: one file each, which declares a `Dialect`, listed here in the order in which they are asked."""

from __future__ import annotations

from typing import Final

from studio.core.registry import records
from studio.formats.dialects.registry import Dialect

__all__ = ["DIALECTS", "Dialect"]

DIALECTS: Final = records(
    __name__,
    (
        "gguf",
        "lorweb",
        "embedded",
        "sam",
        "cloneofsimo",
        "lycoris",
        "kohya",
        "mlx",
        "xlabs",
        "bfl",
        "ai_toolkit",
        "comfyui",
        "diffusers",
        "adalora",
        "peft",
    ),
    Dialect,
)
"""The first that recognises a file reads it."""
