"""Read ComfyUI's generic naming, which ai-toolkit also writes: `diffusion_model.<path>` and `text_encoders.<name>.`.

The path is that of the model's original repository or of diffusers. Scaling is alpha / r where alpha is stored, else 1.
"""

from __future__ import annotations

from studio.core.adapter import Adapter
from studio.formats.containers.bundle import Bundle
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.parts import split_key
from studio.formats.modules.pipeline import read_pipeline
from studio.formats.modules.scaling import said


def sniff(bundle: Bundle) -> str | None:
    """Evidence of ComfyUI's roots, or None."""
    roots = ("diffusion_model.", "text_encoders.")
    found = next((key for key in bundle.keys if key.startswith(roots) and split_key(key)), None)
    return f"ComfyUI's keys such as {found}" if found else None


def read(bundle: Bundle) -> Adapter:
    """Read the denoiser and the text encoders. Raises `Refused` for half adapters and DoRA."""
    return read_pipeline(bundle, unsaid=said(1.0, "ComfyUI's rule for a module without alpha"))


COMFYUI = Dialect(
    "comfyui",
    title="ComfyUI's generic names",
    source="Comfy-Org/ComfyUI, comfy/lora.py",
    keys="`diffusion_model.…`, `text_encoders.…`",
    scaling="alpha tensors; else 1",
    names="`unet.…`, `transformer.…`, `text_encoder.…`",
    sniff=sniff,
    read=read,
    tested_with="diffusers' converters",
    also_claimed_by={
        "diffusers": "`diffusion_model.` stands for a component of a pipeline",
        "peft": "its endings may be PEFT's",
    },
)
