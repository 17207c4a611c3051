"""PEFT's keys taken apart: which module, which of its tensors, which adapter's, and what stands beside the pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from studio.core.account import TensorRow
from studio.core.errors import Refused
from studio.core.tensors import TensorRef
from studio.formats.modules.names import with_component
from studio.formats.modules.other_kinds import instead_of
from studio.formats.modules.patterns import without_wrappers, wrapped_names

Roles = Mapping[str, str]
PAIR: Roles = MappingProxyType({"lora_A": "down", "lora_embedding_A": "down", "lora_B": "up", "lora_embedding_B": "up"})
# Tensors that make a module something else than W + s B A, by the name of the segment that holds them.
_OTHER_KINDS = {
    "lora_magnitude_vector": "DoRA",
    "lora_E": "AdaLoRA",
    "ranknum": "AdaLoRA",
    "lora_diag": "KaSA",
    "ia3_l": "IA3",
    "vera_lambda_b": "VeRA",
    "vera_lambda_d": "VeRA",
    "prompt_embeddings": "prompt tuning",
    "lora_a": "torchtune",
    "lora_b": "torchtune",
}
_LAST = 4  # the segments of a key among which the LoRA's own is: `lora_A.default.default.weight`
_ORIGINAL = "of the base itself, which an old PEFT saved beside a head,"


class Part(NamedTuple):
    """A key taken apart: module path, the segment that says what the tensor is, and what follows that segment."""

    module: str
    segment: str
    rest: tuple[str, ...]

    @property
    def adapter(self) -> str | None:
        """The adapter's name, empty where the key has none; doubled names count once. None for any other ending."""
        names = self.rest[:-1] if self.rest[-1:] == ("weight",) else self.rest
        return "" if not names else names[0] if len(set(names)) == 1 and "weight" not in names else None


@dataclass(frozen=True, slots=True)
class Stored:
    """The tensors of one module by role; `names` are those under which PEFT may have matched patterns with it."""

    names: tuple[str, ...]
    parts: dict[str, TensorRef] = field(default_factory=dict)
    is_embedding: bool = False


@dataclass(frozen=True, slots=True)
class Sorted:
    """A file's tensors: modules by canonical name, full tensors by the base's own names, and what is left out."""

    modules: Mapping[str, Stored]
    extras: Mapping[str, TensorRef]
    left_out: tuple[TensorRow, ...] = ()

    def of_role(self, role: str) -> dict[str, TensorRef]:
        """One tensor of each module that has it."""
        return {name: stored.parts[role] for name, stored in self.modules.items() if role in stored.parts}


def canonical_name(path: str) -> str:
    """The base model's own dotted path: wrapper segments removed, however often they repeat.

    A denoiser's path gets its component in front, so that it meets the pipeline files of the same model.
    """
    return with_component(without_wrappers(path))


def split(key: str) -> Part | None:
    """Find the LoRA segment among the last of a dotted key."""
    segments = key.split(".")
    for index in range(len(segments) - 1, max(len(segments) - 1 - _LAST, -1), -1):
        if segments[index].startswith("lora_") or segments[index] in _OTHER_KINDS:
            return Part(".".join(segments[:index]), segments[index], tuple(segments[index + 1 :]))
    return None


def sort_keys(tensors: Mapping[str, TensorRef], roles: Roles = PAIR) -> Sorted:
    """Sort a file's tensors. Raises `Refused` for other kinds by name, for several adapters, for a module given twice,
    and for tensors in a module that are not understood.
    """
    adapters: dict[str, dict[str, Stored]] = {}
    beside: dict[str, TensorRef] = {}
    for key, tensor in tensors.items():
        part = split(key)
        if part is None:
            beside[key] = tensor
        else:
            _refuse_part(key, part, roles)
            _place(key, tensor, part, roles[part.segment], adapters.setdefault(part.adapter or "", {}))
    modules = _only(adapters)
    extras, left_out = _extras(beside, {"default", *adapters})
    return Sorted(modules, extras, left_out)


def _refuse_part(key: str, part: Part, roles: Roles) -> None:
    if part.segment in _OTHER_KINDS and part.segment not in roles:
        kind = _OTHER_KINDS[part.segment]
        raise Refused(f"this is a {kind} adapter, not plain LoRA", f"it holds {key}", instead_of(kind))
    if ".loras." in part.module:
        raise Refused(
            "this is an AdapterHub adapter, not PEFT's",
            f"it holds {key}",
            "its scaling is kept elsewhere: save as PEFT",
        )
    if part.rest[-1:] == ("bias",):
        raise Refused(
            "this is LoRA with a bias of its own (lora_bias), not plain LoRA",
            f"it holds {key}",
            "train without lora_bias",
        )
    if part.segment not in roles or not part.module or part.adapter is None:
        raise Refused("this is not plain LoRA", f"it holds {key}", "only lora_A and lora_B are understood here")


def _place(key: str, tensor: TensorRef, part: Part, role: str, modules: dict[str, Stored]) -> None:
    name = canonical_name(part.module)
    stored = modules.setdefault(name, Stored(wrapped_names(part.module), is_embedding="embedding" in part.segment))
    if role in stored.parts:
        raise Refused(f"{name} appears twice in the file", f"the second time as {key}", "save one adapter a file")
    stored.parts[role] = tensor


def _only(adapters: Mapping[str, dict[str, Stored]]) -> dict[str, Stored]:
    """The modules of the file's one adapter. What looks like another and has no whole pair is some unknown tensor."""
    whole = [name for name, modules in adapters.items() if any(map(_is_pair, modules.values()))]
    if len(whole) > 1:
        names = ", ".join(sorted(whole))[:80]
        raise Refused("the file holds several adapters", f"they are named {names}", "save each in a folder of its own")
    if len(adapters) > 1 and whole:
        others = (stored for name, modules in adapters.items() if name not in whole for stored in modules.values())
        key = next(tensor.key for stored in others for tensor in stored.parts.values())
        raise Refused("this is not plain LoRA", f"it holds {key}", "only lora_A and lora_B are understood here")
    return {name: stored for modules in adapters.values() for name, stored in modules.items()}


def _is_pair(stored: Stored) -> bool:
    halves = (stored.parts.get("down"), stored.parts.get("up"))
    return all(half is not None and len(half.shape) >= 2 for half in halves)


def _extras(beside: Mapping[str, TensorRef], adapters: set[str]) -> tuple[dict[str, TensorRef], tuple[TensorRow, ...]]:
    """Full tensors under the base model's own names; PEFT has written saved modules in several ways."""
    extras: dict[str, TensorRef] = {}
    left_out = []
    for key, tensor in beside.items():
        segments = canonical_name(key).split(".")
        if "original_module" in segments:
            left_out.append(TensorRow(key, "left out", why=_ORIGINAL, is_harmless=True))
            continue
        if "modules_to_save" in segments:
            at = segments.index("modules_to_save")
            del segments[at : at + (2 if segments[at + 1] in adapters and len(segments) > at + 2 else 1)]
        name = ".".join(segment for segment in segments if segment != "base_layer")
        if name in extras:
            left_out.append(TensorRow(key, "left out", why=f"that the file gives twice ({name})"))
        else:
            extras[name] = tensor
    return extras, tuple(left_out)
