"""Read XLabs FLUX adapters: `double_blocks.0.processor.qkv_lora1.down.weight`, 1 for the image stream and 2 for text.

Scaling is 1; the 0.7 of the tool is a strength chosen when it runs.
"""

from __future__ import annotations

import re

from studio.core.adapter import Adapter
from studio.formats.containers.bundle import Bundle
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.pipeline import read_pipeline
from studio.formats.modules.scaling import said

_KEY = re.compile(
    r"(diffusion_model\.)?(double|single)_blocks\.\d+\.processor\.(qkv|proj)_lora[12]?\.(down|up)\.weight"
)


def sniff(bundle: Bundle) -> str | None:
    """Evidence of XLabs' processors, or None."""
    found = next((key for key in bundle.keys if _KEY.fullmatch(key)), None)
    return f"XLabs processors such as {found}" if found else None


def read(bundle: Bundle) -> Adapter:
    """Read every processor's pairs. Raises `Refused` for half adapters."""
    return read_pipeline(bundle, unsaid=said(1.0, "XLabs' files hold no alpha"))


XLABS = Dialect(
    "xlabs",
    title="XLabs' x-flux",
    source="XLabs-AI/x-flux",
    keys="`double_blocks.0.processor.qkv_lora1.down`",
    scaling="1",
    names="`transformer.…` in diffusers' naming",
    sniff=sniff,
    read=read,
    tested_with="diffusers' converter",
    also_claimed_by={"diffusers": "attention processors, in FLUX's original blocks"},
)
