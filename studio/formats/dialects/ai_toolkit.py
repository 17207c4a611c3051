"""Read ai-toolkit's adapters: diffusers' names or ComfyUI's, told apart only by the header, which names the tool.

It drops alpha when it saves, so the scaling is 1. Its SD 1.5 and SDXL files are kohya's.
"""

from __future__ import annotations

from studio.core.adapter import Adapter
from studio.formats.containers.bundle import Bundle
from studio.formats.dialects import comfyui, diffusers
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.pipeline import read_pipeline
from studio.formats.modules.scaling import said


def sniff(bundle: Bundle) -> str | None:
    """Evidence that ai-toolkit wrote it, or None."""
    named = "ai-toolkit" in bundle.metadata.get("software", "")
    evidence = diffusers.sniff(bundle) or comfyui.sniff(bundle) if named else None
    return f"the header names ai-toolkit, {evidence}" if evidence else None


def read(bundle: Bundle) -> Adapter:
    """Read every pair; alpha tensors, where there are some, count. Raises `Refused` for half adapters and DoRA."""
    return read_pipeline(bundle, unsaid=said(1.0, "ai-toolkit drops alpha when it saves"))


AI_TOOLKIT = Dialect(
    "ai-toolkit",
    title="ai-toolkit",
    source="ostris/ai-toolkit, toolkit/network_mixins.py",
    keys="a header that names it",
    scaling="alpha tensors; else 1",
    names="`transformer.…`",
    sniff=sniff,
    read=read,
    also_claimed_by={
        "comfyui": "it writes the same names; the header tells",
        "diffusers": "it writes the same names; the header tells",
        "peft": "its endings are PEFT's",
    },
)
