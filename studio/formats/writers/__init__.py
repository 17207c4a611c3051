"""Export targets: one file each, which declares a `Writer`. This is the list of them, as page and docs show it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from studio.formats.writers.diffusers import DIFFUSERS
from studio.formats.writers.gguf import GGUF
from studio.formats.writers.kohya import KOHYA
from studio.formats.writers.mlx import MLX
from studio.formats.writers.peft import PEFT
from studio.formats.writers.registry import Models, Writer

__all__ = ["WRITERS", "Writer", "writers_for"]

WRITERS: Mapping[str, Writer] = MappingProxyType({writer.id: writer for writer in (PEFT, DIFFUSERS, KOHYA, MLX, GGUF)})


def writers_for(models: Models) -> dict[str, Writer]:
    """The export targets that hold adapters of these models."""
    return {name: writer for name, writer in WRITERS.items() if writer.models in ("any", models)}
