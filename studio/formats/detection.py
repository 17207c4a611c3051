"""Which dialect a file is in, and the adapter that it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from studio.core.adapter import Adapter
from studio.core.errors import Refused
from studio.formats.containers.bundle import Bundle
from studio.formats.dialects import DIALECTS, Dialect
from studio.formats.modules.guards import accounted, check_structure
from studio.formats.modules.originals import split_fused
from studio.formats.modules.other_kinds import refusal_by_name
from studio.formats.modules.quantised import dequantised

# What stands in folders of adapters and is none, by a part of a key.
_STRANGERS = {
    "lora_controlnet": "a Control-LoRA, which changes a ControlNet and not its base",
    ".lora_a.weight": "an adapter in torchtune's own names, which are not read",
    "emb_params": "a textual inversion, which is a word and no LoRA",
    "string_to_param": "a textual inversion, which is a word and no LoRA",
}


def detect(bundle: Bundle, dialects: Mapping[str, Dialect] = DIALECTS) -> tuple[Dialect, str]:
    """The first dialect that recognises a bundle and its evidence; raises `Refused` where none does."""
    for dialect in dialects.values():
        evidence = dialect.sniff(bundle)
        if evidence:
            return dialect, evidence
    named = refusal_by_name(bundle.keys)
    if named:
        raise named
    some = ", ".join(bundle.keys[:3]) or "none"
    what = next((what for part, what in _STRANGERS.items() if any(part in key for key in bundle.keys)), None)
    if what is None and bundle.keys and all(key.endswith((".weight", ".bias")) for key in bundle.keys):
        what = "a model's own weights: none of its tensors is named lora"
    raise Refused(
        f"{bundle.name} is {what or 'no adapter that is known here'}",
        f"its {len(bundle.keys)} tensors are named {some}",
    )


def read_bundle(bundle: Bundle, dialects: Mapping[str, Dialect] = DIALECTS) -> Adapter:
    """Read an opened bundle by the first dialect that recognises it; a name where adapters have none is refused."""
    dialect, evidence = detect(bundle, dialects)
    if bundle.selected is not None and not dialect.several:
        raise Refused(
            f"no adapter here is named {bundle.selected[:80]}", "it is one adapter, without a name", "leave the # out"
        )
    return replace(read_as(dialect, bundle), evidence=evidence)


def read_as(dialect: Dialect, bundle: Bundle) -> Adapter:
    """Read a bundle by a given dialect, and hold what it gives to what every adapter is held to.

    Whatever it was called there, FLUX gets diffusers' names.
    """
    plain = dequantised(bundle)
    adapter = dialect.read(plain.bundle)
    check_structure(adapter, plain)
    named = replace(adapter, dialect=dialect.id, modules=split_fused(adapter.modules), files=bundle.files)
    return accounted(named, bundle, plain)
