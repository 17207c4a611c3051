"""What the dialects of image models share: group the keys, build every module, say what was left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from studio.core.adapter import Adapter, Finding, LoraModule
from studio.core.errors import Refused
from studio.formats.containers.bundle import Bundle
from studio.formats.modules.kinds import build
from studio.formats.modules.names import canonical
from studio.formats.modules.other_kinds import instead_of, no_pairs
from studio.formats.modules.pairs import require_both_halves
from studio.formats.modules.parts import Grouped, Parts, group

Scaling = Callable[[str, Parts], float | None]


def stored_scaling(spelling: str, parts: Parts) -> None:
    """Take each module's scaling from its own parts."""


def read_pipeline(bundle: Bundle, scaling: Scaling = stored_scaling) -> Adapter:
    """Read a diffusion adapter; `scaling(spelling, parts)` may override what a module's parts say.

    Raises `Refused` for half adapters, DoRA, files with nothing but other kinds, and modules given twice.
    """
    found = group(bundle.tensors)
    _require_pairs(found)
    modules: dict[str, LoraModule] = {}
    for spelling, parts in found.modules.items():
        module = build(spelling, parts, scaling(spelling, parts))
        if module.name in modules:
            why = f"the second time as {spelling}"
            raise Refused(f"{module.name} appears twice in the file", why, "save one adapter a file")
        modules[module.name] = module
    if not modules:
        raise _nothing(bundle, found)
    return Adapter(
        name=bundle.name,
        modules=modules,
        base=base_of(bundle.metadata),
        findings=(*_left_out(found), *_untranslated(found)),
        extras=found.unknown,
        metadata=bundle.metadata,
        path=bundle.path,
    )


def base_of(metadata: Mapping[str, str]) -> str | None:
    """The base model as the header of a training tool names it."""
    for key in ("ss_sd_model_name", "ss_base_model_version", "modelspec.architecture"):
        value = metadata.get(key)
        if value and value != "None":
            return value
    return None


def _require_pairs(found: Grouped) -> None:
    downs = {module: parts["down"] for module, parts in found.modules.items() if "down" in parts}
    ups = {module: parts["up"] for module, parts in found.modules.items() if "up" in parts}
    require_both_halves(downs, ups)


def _nothing(bundle: Bundle, found: Grouped) -> Refused:
    kinds = ", ".join(sorted(set(found.other_kinds.values())))
    if kinds:
        return Refused(f"this is {kinds}, not LoRA", f"it holds {next(iter(found.other_kinds))}", instead_of(kinds))
    return no_pairs(bundle.name, bundle.keys)


def _left_out(found: Grouped) -> list[Finding]:
    findings = []
    if found.other_kinds:
        kinds = ", ".join(sorted(set(found.other_kinds.values())))
        text = f"{len(found.other_kinds)} tensors of other kinds than LoRA ({kinds}) are left out"
        findings.append(Finding("warn", text, next(iter(found.other_kinds))))
    if found.unknown:
        some = ", ".join(list(found.unknown)[:4])
        text = f"{len(found.unknown)} tensors match no LoRA name ({some}) and are not merged"
        findings.append(Finding("warn", text))
    if found.orphans:
        text = f"{len(found.orphans)} alphas belong to no module in the file ({next(iter(found.orphans))}): left out"
        findings.append(Finding("warn", text))
    return findings


def _untranslated(found: Grouped) -> list[Finding]:
    unknown = [spelling for spelling in found.modules if not canonical(spelling).known]
    if not unknown:
        return []
    text = (
        f"{len(unknown)} module names are in no table of base models: they merge only with files of the same spelling"
    )
    return [Finding("warn", text, unknown[0])]
