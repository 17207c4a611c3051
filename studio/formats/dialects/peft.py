"""Read PEFT adapters: adapter_config.json beside keys that end in lora_A.weight and lora_B.weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from studio.core.adapter import Adapter, Finding, LoraModule
from studio.core.errors import Refused
from studio.core.hub_ids import hub_id_or_none
from studio.core.tensors import TensorRef
from studio.formats.containers.bundle import Bundle
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.experts import NESTED, parameter_of, split_experts
from studio.formats.modules.names import with_component
from studio.formats.modules.other_kinds import instead_of, no_pairs
from studio.formats.modules.pairs import require_both_halves, stored_module
from studio.formats.modules.patterns import without_wrappers, wrapped_names
from studio.formats.modules.peft_config import PeftConfig, read_peft_config

_DOWN, _UP = {"lora_A", "lora_embedding_A"}, {"lora_B", "lora_embedding_B"}
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


def sniff(bundle: Bundle) -> str | None:
    """Evidence that the bundle is PEFT's, or None."""
    if bundle.config is not None and "peft_type" in bundle.config:
        return "adapter_config.json with peft_type"
    for key in bundle.keys:
        part = _split(key)
        if part and (key.startswith("base_model.model.") or part.segment in _DOWN | _UP):
            return f"keys such as {key}"
    return None


def read(bundle: Bundle) -> Adapter:
    """Read the LoRA part; heads, biases and other full tensors become extras.

    Raises `Refused` for other kinds than plain LoRA, by name.
    """
    config = read_peft_config(bundle.config)
    sorted_keys = _sort_keys(bundle.tensors)
    require_both_halves(sorted_keys.downs, sorted_keys.ups)
    if not sorted_keys.downs:
        raise no_pairs(bundle.name, bundle.keys)
    modules = {module.name: module for name in sorted_keys.downs for module in _modules(name, sorted_keys, config)}
    return Adapter(
        name=bundle.name,
        modules=modules,
        base=config.base,
        findings=(
            *config.findings,
            *_rank_findings(modules, sorted_keys.names, config),
            *_extra_findings(sorted_keys),
            *_config_findings(bundle, config),
            *_base_findings(bundle, config),
        ),
        extras=sorted_keys.extras,
        config=config.carried,
        metadata=bundle.metadata,
        path=bundle.path,
    )


PEFT = Dialect(
    "peft",
    title="PEFT",
    source="huggingface/peft, tuners/lora",
    keys="`adapter_config.json`, `base_model.model.…`",
    scaling="alpha / r, alpha / √r for rsLoRA, patterns as PEFT matches them",
    names="the base's own path, wrappers removed",
    sniff=sniff,
    read=read,
    tested_with="PEFT",
)


def canonical_name(path: str) -> str:
    """The base model's own dotted path: wrapper segments removed, however often they repeat.

    A denoiser's path gets its component in front, so that it meets the pipeline files of the same model.
    """
    return with_component(without_wrappers(path))


class _Part(NamedTuple):
    """A key taken apart: module path, the segment that says what the tensor is, and what follows that segment."""

    module: str
    segment: str
    rest: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Sorted:
    """The tensors of a file by what they are; `names` are those that PEFT may have matched patterns with."""

    downs: dict[str, TensorRef] = field(default_factory=dict)
    ups: dict[str, TensorRef] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    embeddings: set[str] = field(default_factory=set)
    extras: dict[str, TensorRef] = field(default_factory=dict)


def _split(key: str) -> _Part | None:
    """Find the LoRA segment among the last three of a dotted key."""
    segments = key.split(".")
    for index in range(len(segments) - 1, max(len(segments) - 4, -1), -1):
        if segments[index].startswith("lora_") or segments[index] in _OTHER_KINDS:
            return _Part(".".join(segments[:index]), segments[index], tuple(segments[index + 1 :]))
    return None


def _sort_keys(tensors: Mapping[str, TensorRef]) -> _Sorted:
    found = _Sorted()
    adapters: set[str] = set()
    for key, tensor in tensors.items():
        part = _split(key)
        if part is None:
            _keep_extra(key, tensor, found.extras)
            continue
        _refuse_part(key, part)
        adapters.add(".".join(segment for segment in part.rest if segment != "weight"))
        name = canonical_name(part.module)
        half = found.downs if part.segment in _DOWN else found.ups
        if name in half:
            raise Refused(f"{name} appears twice in the file", f"the second time as {key}", "save one adapter a file")
        half[name] = tensor
        found.names[name] = wrapped_names(part.module)
        if "embedding" in part.segment:
            found.embeddings.add(name)
    if len(adapters) > 1:
        names = ", ".join(sorted(adapters))[:80]
        raise Refused("the file holds several adapters", f"they are named {names}", "save each in a folder of its own")
    return found


def _refuse_part(key: str, part: _Part) -> None:
    if part.segment in _OTHER_KINDS:
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
    if part.segment not in _DOWN | _UP or not part.module:
        raise Refused("this is not plain LoRA", f"it holds {key}", "only lora_A and lora_B are understood here")


def _keep_extra(key: str, tensor: TensorRef, extras: dict[str, TensorRef]) -> None:
    """Keep a full tensor under the base model's own name; PEFT has written saved modules in several ways."""
    segments = canonical_name(key).split(".")
    if "original_module" in segments:  # the untouched base weights, saved by mistake of an old version
        return
    if "modules_to_save" in segments:
        at = segments.index("modules_to_save")
        del segments[at : at + (2 if segments[at + 1 : at + 2] == ["default"] else 1)]
    name = ".".join(segment for segment in segments if segment != "base_layer")
    extras.setdefault(name, tensor)


def _modules(name: str, found: _Sorted, config: PeftConfig) -> list[LoraModule]:
    """The module of a pair, or where it adapts a fused parameter (target_parameters) one for each expert."""
    parameter = parameter_of(name, config.target_parameters)
    if parameter is None:
        return [_module(name, found, config)]
    leaf = parameter.rpartition(".")[2]
    names = [f"{path.removesuffix(NESTED)}.{leaf}" for path in found.names[name]]
    rank = config.expected_rank(*names)
    scaling = config.scaling(rank, *names) if rank else 1.0
    return split_experts(parameter, found.downs[name], found.ups[name], rank, scaling)


def _module(name: str, found: _Sorted, config: PeftConfig) -> LoraModule:
    down, up = found.downs[name], found.ups[name]
    rank = down.shape[0] if down.shape else 0
    names = found.names[name]
    scaling = config.scaling(rank, *names) if rank else 1.0
    return stored_module(
        name, down, up, scaling, "embedding" if name in found.embeddings else None, config.alpha_of(*names)
    )


def _rank_findings(
    modules: Mapping[str, LoraModule], names: Mapping[str, tuple[str, ...]], config: PeftConfig
) -> list[Finding]:
    promised = {name: config.expected_rank(*names[name]) for name in modules if name in names}
    odd = [name for name, rank in promised.items() if rank not in (None, modules[name].rank)]
    if not odd:
        return []
    text = f"the config promises rank {promised[odd[0]]}, the tensors have rank {modules[odd[0]].rank}"
    return [Finding("warn", f"{text} ({len(odd)} modules); the tensors are believed", odd[0])]


def _extra_findings(found: _Sorted) -> list[Finding]:
    if not found.extras:
        return []
    some = ", ".join(list(found.extras)[:4])
    text = f"{len(found.extras)} full tensors are stored with the LoRA ({some})"
    return [Finding("warn", text + ": a merge drops them, or carries them from one chosen source")]


def _config_findings(bundle: Bundle, config: PeftConfig) -> list[Finding]:
    if bundle.config is None:
        return [Finding("warn", "no adapter_config.json beside the weights: scaling taken as 1 (alpha = rank)")]
    return [Finding("warn", "its config names no alpha: scaling taken as 1")] if config.alpha is None else []


def _base_findings(bundle: Bundle, config: PeftConfig) -> list[Finding]:
    findings = []
    if any(key.count("base_model.model.") > 1 for key in bundle.keys):
        findings.append(Finding("note", "its keys are wrapped twice (base_model.model.base_model.model.): read as one"))
    if bundle.config is not None and config.base is None:
        findings.append(Finding("note", "its config names no base model: check that it fits yours"))
    elif config.base is not None and hub_id_or_none(config.base) is None:
        findings.append(Finding("note", f"its base is a path of another machine ({config.base}); exports leave it out"))
    return findings
