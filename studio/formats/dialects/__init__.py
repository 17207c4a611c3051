"""Dialects: one file each, which declares a `Dialect`. Here they are listed, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from studio.formats.dialects.ai_toolkit import AI_TOOLKIT
from studio.formats.dialects.bfl import BFL
from studio.formats.dialects.cloneofsimo import CLONEOFSIMO
from studio.formats.dialects.comfyui import COMFYUI
from studio.formats.dialects.diffusers import DIFFUSERS
from studio.formats.dialects.embedded import EMBEDDED
from studio.formats.dialects.gguf import GGUF
from studio.formats.dialects.kohya import KOHYA
from studio.formats.dialects.lorweb import LORWEB
from studio.formats.dialects.lycoris import LYCORIS
from studio.formats.dialects.mlx import MLX
from studio.formats.dialects.peft import PEFT
from studio.formats.dialects.registry import Dialect
from studio.formats.dialects.sam import SAM
from studio.formats.dialects.xlabs import XLABS

__all__ = ["DIALECTS", "Dialect"]

# The first that recognises a file reads it.
DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        dialect.id: dialect
        for dialect in (
            GGUF,
            LORWEB,
            EMBEDDED,
            SAM,
            CLONEOFSIMO,
            LYCORIS,
            KOHYA,
            MLX,
            XLABS,
            BFL,
            AI_TOOLKIT,
            COMFYUI,
            DIFFUSERS,
            PEFT,
        )
    }
)
