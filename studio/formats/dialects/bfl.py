"""Read FLUX adapters in the original repository's naming: `double_blocks.0.img_attn.qkv.lora_A.weight`.

Black Forest Labs' control adapters also train biases and norms and widen img_in; those are left out with a warning. The
same keys under `base_model.model.` are fal's. Scaling is 1 without alpha tensors.
"""

from __future__ import annotations

import re
from dataclasses import replace

from studio.core.adapter import Adapter, Finding
from studio.formats.containers.bundle import Bundle
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.pipeline import read_pipeline
from studio.formats.modules.scaling import said

_PAIR = re.compile(r"(base_model\.model\.)?(double|single)_blocks\.\d+\.[\w.]+\.lora_(A|B|down|up)\.weight")
_CONTROL = ".norm.query_norm.scale"
_IMG_IN = "transformer.img_in"
_LATENT_CHANNELS = 64  # of FLUX.1; a control adapter's input has as many again for the control image


def sniff(bundle: Bundle) -> str | None:
    """Evidence of the original naming, or None; a folder with a PEFT config is PEFT's to read."""
    if bundle.config is not None and "peft_type" in bundle.config:
        return None
    found = next((key for key in bundle.keys if key.endswith(_CONTROL)), None)
    found = found or next((key for key in bundle.keys if _PAIR.fullmatch(key)), None)
    return f"FLUX's original names such as {found}" if found else None


def read(bundle: Bundle) -> Adapter:
    """Read every pair. Raises `Refused` for half adapters and for files with nothing but other kinds."""
    adapter = read_pipeline(bundle, unsaid=said(1.0, "FLUX's own layers have no alpha"))
    widened = adapter.modules.get(_IMG_IN)
    if widened is None or widened.d_in <= _LATENT_CHANNELS:
        return adapter
    text = f"it takes {widened.d_in} input channels, {widened.d_in - _LATENT_CHANNELS} of them for a control image: "
    text += "it fits only a base whose input is widened so"
    return replace(adapter, findings=(*adapter.findings, Finding("warn", text, _IMG_IN)))


BFL = Dialect(
    "bfl",
    title="Black Forest Labs' control adapters, fal",
    source="black-forest-labs/flux, src/flux/modules/lora.py",
    keys="`double_blocks.0.img_attn.qkv.lora_A`, `…query_norm.scale`",
    scaling="alpha tensors; else 1",
    names="`transformer.…` in diffusers' naming",
    sniff=sniff,
    read=read,
    tested_with="diffusers' converter",
    also_claimed_by={
        "diffusers": "FLUX's original blocks are a transformer's",
        "peft": "its endings are PEFT's, as is the prefix of fal's",
    },
)
