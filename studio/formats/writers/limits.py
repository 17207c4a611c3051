"""What a format cannot hold, refused by name before anything is written."""

from __future__ import annotations

from collections.abc import Collection

from studio.core.adapter import Adapter, Kind
from studio.core.errors import LoomError
from studio.formats.modules.names import COMPONENTS

_AS_PEFT = "export as PEFT"
_KINDS = {"linear": "linear layers", "conv": "convolutions", "embedding": "embeddings", "expert": "fused experts"}


def require_kinds(adapter: Adapter, title: str, kinds: Collection[Kind]) -> None:
    """Raise `LoomError` where a module is of another kind than the format has a place for."""
    odd = next((module for module in adapter.modules.values() if module.kind not in kinds), None)
    if odd is not None:
        raise LoomError(f"{title} holds no LoRA on {_KINDS[odd.kind]}", f"{odd.name} is one of them", _AS_PEFT)


def require_no_extras(adapter: Adapter, title: str) -> None:
    """Raise `LoomError` where full tensors (heads, biases, embeddings) would be lost."""
    if adapter.extras:
        why = f"{len(adapter.extras)} stand beside the LoRA, such as {next(iter(adapter.extras))}"
        raise LoomError(f"{title} holds no full tensors", why, f"leave them out when merging, or {_AS_PEFT}")


def require_pipeline(adapter: Adapter, title: str) -> None:
    """Raise `LoomError` unless every module belongs to a component of an image pipeline."""
    odd = next((name for name in adapter.modules if not _is_pipelines(name)), None)
    if odd is not None:
        raise LoomError(f"{title} is for image pipelines", f"{odd} is in none of their components", _AS_PEFT)


def require_no_pipeline(adapter: Adapter, title: str) -> None:
    """Raise `LoomError` where a module belongs to an image pipeline."""
    odd = next((name for name in adapter.modules if _is_pipelines(name)), None)
    if odd is not None:
        raise LoomError(
            f"{title} is for language models", f"{odd} belongs to an image pipeline", "export for diffusers"
        )


def _is_pipelines(name: str) -> bool:
    """GPT-2 and Falcon call their own trunk `transformer`, too; its layers are named h."""
    return name.partition(".")[0] in COMPONENTS and not name.startswith("transformer.h.")
