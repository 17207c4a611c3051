"""Which dialect a file is in: the one list of readers, in the order in which they are asked."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

from studio.core.adapter import Adapter
from studio.core.errors import Refused
from studio.formats.containers.bundle import Bundle
from studio.formats.dialects import (
    ai_toolkit,
    bfl,
    cloneofsimo,
    comfy,
    diffusers,
    embedded,
    gguf,
    kohya,
    lorweb,
    lycoris,
    mlx,
    peft,
    sam,
    xlabs,
)
from studio.formats.modules.originals import split_fused

# In the order of detection: the first that recognises a file reads it. Each has sniff(bundle) and read(bundle).
DIALECTS: tuple[ModuleType, ...] = (
    gguf,
    lorweb,
    embedded,
    sam,
    cloneofsimo,
    lycoris,
    kohya,
    mlx,
    xlabs,
    bfl,
    ai_toolkit,
    comfy,
    diffusers,
    peft,
)

_WITH_NAMES = (embedded, lorweb)  # those whose files hold several adapters: `path#name`

# What stands in folders of adapters and is none, by a part of a key.
_STRANGERS = {
    "lora_controlnet": "a Control-LoRA, which changes a ControlNet and not its base",
    "emb_params": "a textual inversion, which is a word and no LoRA",
    "string_to_param": "a textual inversion, which is a word and no LoRA",
}


def detect(bundle: Bundle) -> tuple[ModuleType, str]:
    """The dialect of a bundle and the evidence for it; raises `Refused` where none fits."""
    for dialect in DIALECTS:
        evidence = dialect.sniff(bundle)
        if evidence:
            return dialect, evidence
    some = ", ".join(bundle.keys[:3]) or "none"
    what = next((what for part, what in _STRANGERS.items() if any(part in key for key in bundle.keys)), None)
    if what is None and bundle.keys and all(key.endswith((".weight", ".bias")) for key in bundle.keys):
        what = "a model's own weights: none of its tensors is named lora"
    raise Refused(
        f"{bundle.name} is {what or 'no adapter that is known here'}",
        f"its {len(bundle.keys)} tensors are named {some}",
    )


def read_bundle(bundle: Bundle) -> Adapter:
    """Read an opened bundle by the first dialect that recognises it; a name where adapters have none is refused."""
    dialect, evidence = detect(bundle)
    if bundle.selected is not None and dialect not in _WITH_NAMES:
        raise Refused(
            f"no adapter here is named {bundle.selected[:80]}", "it is one adapter, without a name", "leave the # out"
        )
    return replace(read_as(dialect, bundle), evidence=evidence)


def read_as(dialect: ModuleType, bundle: Bundle) -> Adapter:
    """Read a bundle by a given dialect; whatever it was called there, FLUX gets diffusers' names."""
    adapter: Adapter = dialect.read(bundle)
    return replace(adapter, modules=split_fused(adapter.modules))
