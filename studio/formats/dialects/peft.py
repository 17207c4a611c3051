"""Read PEFT adapters: adapter_config.json beside keys that end in lora_A.weight and lora_B.weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from studio.core.adapter import Adapter, Finding, LoraModule
from studio.core.hub_ids import hub_id_or_none
from studio.formats.containers.bundle import Bundle
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.experts import NESTED, parameter_of, split_experts
from studio.formats.modules.other_kinds import no_pairs
from studio.formats.modules.pairs import require_both_halves, stored_module, unique
from studio.formats.modules.peft_config import PeftConfig, read_peft_config
from studio.formats.modules.peft_keys import PAIR, Sorted, Stored, sort_keys, split


def sniff(bundle: Bundle) -> str | None:
    """Evidence that the bundle is PEFT's, or None."""
    if bundle.config is not None and "peft_type" in bundle.config:
        return "adapter_config.json with peft_type"
    for key in bundle.keys:
        part = split(key)
        if part and (key.startswith("base_model.model.") or part.segment in PAIR):
            return f"keys such as {key}"
    return None


def read(bundle: Bundle) -> Adapter:
    """Read the LoRA part; heads, biases and other full tensors become extras.

    Raises `Refused` for other kinds than plain LoRA, by name.
    """
    return read_with(read_peft_config(bundle.config), bundle)


def read_with(config: PeftConfig, bundle: Bundle) -> Adapter:
    """Read the LoRA part by a config from wherever it stands; raises as `read` does."""
    found = sort_keys(bundle.tensors)
    require_both_halves(found.of_role("down"), found.of_role("up"))
    if not found.modules:
        raise no_pairs(bundle.name, bundle.keys)
    modules = unique(module for name, stored in found.modules.items() for module in _modules(name, stored, config))
    return Adapter(
        name=bundle.name,
        modules=modules,
        base=config.base,
        findings=(*config.findings, *_rank_findings(modules, found, config), *base_findings(bundle, config)),
        extras=found.extras,
        config=config.carried,
        metadata=bundle.metadata,
        path=bundle.path,
        tensors=found.left_out,
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


def _modules(name: str, stored: Stored, config: PeftConfig) -> Iterator[LoraModule]:
    """The module of a pair, or where it adapts a fused parameter (target_parameters) one for each expert."""
    down, up = stored.parts["down"], stored.parts["up"]
    parameter = parameter_of(name, config.target_parameters)
    if parameter is None:
        scaling = config.scaling(down.shape[0] if down.shape and down.shape[0] else 1, *stored.names)
        yield stored_module(name, down, up, scaling, "embedding" if stored.is_embedding else None)
        return
    leaf = parameter.rpartition(".")[2]
    names = [f"{path.removesuffix(NESTED)}.{leaf}" for path in stored.names]
    rank = config.expected_rank(*names)
    yield from split_experts(parameter, down, up, rank, config.scaling(rank or 1, *names))


def _rank_findings(modules: Mapping[str, LoraModule], found: Sorted, config: PeftConfig) -> list[Finding]:
    promised = {name: config.expected_rank(*found.modules[name].names) for name in modules if name in found.modules}
    odd = [name for name, rank in promised.items() if rank not in (None, modules[name].rank)]
    if not odd:
        return []
    text = f"the config promises rank {promised[odd[0]]}, the tensors have rank {modules[odd[0]].rank}"
    return [Finding("warn", f"{text} ({len(odd)} modules); the tensors are believed", odd[0])]


def base_findings(bundle: Bundle, config: PeftConfig) -> list[Finding]:
    """What is worth knowing of the base that a config names, and of the wrappers around it."""
    findings = []
    if any(key.count("base_model.model.") > 1 for key in bundle.keys):
        findings.append(Finding("note", "its keys are wrapped twice (base_model.model.base_model.model.): read as one"))
    if bundle.config is not None and config.base is None:
        findings.append(Finding("note", "its config names no base model: check that it fits yours"))
    elif config.base is not None and hub_id_or_none(config.base) is None:
        findings.append(Finding("note", f"its base is a path of another machine ({config.base}); exports leave it out"))
    return findings
