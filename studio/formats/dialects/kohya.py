"""Read kohya sd-scripts, OneTrainer and their kin: `lora_unet_down_blocks_0_..._to_q.lora_down.weight` with `.alpha`.

A file without alpha tensors has scaling 1.
"""

from __future__ import annotations

from studio.core.adapter import Adapter
from studio.formats.containers.bundle import Bundle
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.names import is_underscored
from studio.formats.modules.parts import split_key
from studio.formats.modules.pipeline import read_pipeline
from studio.formats.modules.scaling import said


def sniff(bundle: Bundle) -> str | None:
    """Evidence that the module names are underscored, or None."""
    for key in bundle.keys:
        split = split_key(key)
        if split and is_underscored(split[0]):
            return f"underscored keys such as {key}"
    return None


def read(bundle: Bundle) -> Adapter:
    """Read the UNet, transformer and text encoders. Raises `Refused` for half adapters and DoRA."""
    return read_pipeline(bundle, unsaid=said(1.0, "sd-scripts' rule for a module without alpha"))


KOHYA = Dialect(
    "kohya",
    title="kohya's sd-scripts, OneTrainer",
    source="kohya-ss/sd-scripts, networks/lora.py",
    keys="`lora_unet_down_blocks_0_…`",
    scaling="`.alpha` / r; 1 without alpha",
    names="`unet.…`, `text_encoder.…`, `transformer.…` by tables",
    sniff=sniff,
    read=read,
    tested_with="diffusers' converters",
)
