"""What an export target is and what it can carry. Each is declared in its own file of this folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from studio.core.adapter import Adapter, Kind
from studio.core.errors import LoomError
from studio.formats.containers.safetensors_file import SaveDtype
from studio.formats.modules.names import COMPONENTS

BaseConfig = Mapping[str, Any]
Models = Literal["any", "image pipelines", "language models"]

_AS_PEFT = "export as PEFT"
_KINDS: Mapping[Kind, str] = {
    "linear": "linear layers",
    "conv": "convolutions",
    "embedding": "embeddings",
    "expert": "fused experts",
}


def holds_all(adapter: Adapter, base_config: BaseConfig) -> None:
    """The check of a format that refuses nothing more than its record says."""


@dataclass(frozen=True, slots=True)
class Writer:
    """One export target; `title` and `about` say what it is and whom it is for.

    `write(adapter, folder, dtype, base_config)` makes `files` in an existing folder; the dialect named `dialect` reads
    them back. `kinds`, `models` and `full_tensors` (heads, biases, embeddings beside the LoRA) say what the format
    holds; what else it cannot hold `check(adapter, base_config)` refuses with a `LoomError`, and `besides` says it in
    the docs. `tested_with` is the owner's library, which loads an export in the tests. `base_config` is the base
    model's config.json, empty unless `needs_base_config`.
    """

    id: str
    title: str
    about: str
    files: tuple[str, ...]
    dialect: str
    write: Callable[[Adapter, Path, SaveDtype, BaseConfig], None]
    tested_with: str
    kinds: tuple[Kind, ...] = ("linear",)
    models: Models = "any"
    full_tensors: bool = False
    check: Callable[[Adapter, BaseConfig], None] = holds_all
    besides: str = ""
    needs_base_config: bool = False

    @property
    def cannot_carry(self) -> str:
        """What is refused, in a line for the docs."""
        other = {"any": "", "image pipelines": "language models", "language models": "image pipelines"}[self.models]
        kinds = (what for kind, what in _KINDS.items() if kind not in self.kinds)
        full = "" if self.full_tensors else "heads and other full tensors"
        return "; ".join(filter(None, (self.besides, other, *kinds, full)))

    def require(self, adapter: Adapter, base_config: BaseConfig) -> None:
        """Raise `LoomError`, by name, for what the format cannot hold."""
        self._require_models(adapter)
        odd = next((module for module in adapter.modules.values() if module.kind not in self.kinds), None)
        if odd is not None:
            raise LoomError(
                f"the {self.id} format holds no LoRA on {_KINDS[odd.kind]}", f"{odd.name} is one of them", _AS_PEFT
            )
        if adapter.extras and not self.full_tensors:
            why = f"{len(adapter.extras)} are stored with the LoRA, such as {next(iter(adapter.extras))}"
            raise LoomError(
                f"the {self.id} format holds no full tensors", why, f"leave them out when merging, or {_AS_PEFT}"
            )
        self.check(adapter, base_config)

    def _require_models(self, adapter: Adapter) -> None:
        if self.models == "any":
            return
        wants_pipeline = self.models == "image pipelines"
        odd = next((name for name in adapter.modules if _is_of_pipeline(name) != wants_pipeline), None)
        if odd is not None:
            why = f"{odd} is in none of their components" if wants_pipeline else f"{odd} belongs to an image pipeline"
            raise LoomError(f"the {self.id} format is for {self.models}", why, _AS_PEFT)


def _is_of_pipeline(name: str) -> bool:
    """GPT-2 and Falcon call their own trunk `transformer`, too; its layers are named h."""
    return name.partition(".")[0] in COMPONENTS and not name.startswith("transformer.h.")
