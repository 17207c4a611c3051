"""Export targets by id: one file each, which declares a `Writer`, listed here in the order of the page."""

from __future__ import annotations

from typing import Final

from studio.core.registry import records
from studio.formats.writers.registry import Models, Writer

__all__ = ["WRITERS", "Writer", "writers_for"]

WRITERS: Final = records(__name__, ("peft", "diffusers", "kohya", "mlx", "gguf"), Writer)


def writers_for(models: Models) -> dict[str, Writer]:
    """The export targets that hold adapters of these models."""
    return {id: writer for id, writer in WRITERS.items() if writer.models in ("any", models)}
