"""What the dialects of image models share: group the keys, build every module, say what was left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from studio.core.account import TensorRow
from studio.core.adapter import Adapter, Finding, LoraModule
from studio.core.errors import Refused
from studio.formats.containers.bundle import Bundle
from studio.formats.modules.kinds import build
from studio.formats.modules.names import canonical
from studio.formats.modules.other_kinds import instead_of, no_pairs
from studio.formats.modules.pairs import require_both_halves, unique
from studio.formats.modules.parts import Grouped, Parts, group
from studio.formats.modules.scaling import Scaling, said

ScalingOf = Callable[[str, Parts], Scaling | None]
WITHOUT_ALPHA = said(1.0, "the tools' rule for a file without alpha")


def stored_scaling(spelling: str, parts: Parts) -> None:
    """Take each module's scaling from its own parts."""


def read_pipeline(bundle: Bundle, scaling: ScalingOf = stored_scaling, unsaid: Scaling = WITHOUT_ALPHA) -> Adapter:
    """Read a diffusion adapter; `scaling(spelling, parts)` may override what a module's parts say, `unsaid` holds where
    they say nothing.

    Raises `Refused` for half adapters, DoRA, files with nothing but other kinds, layers with two updates, and modules
    given twice.
    """
    found = group(bundle.tensors)
    _require_pairs(found)
    modules = unique(
        build(spelling, parts, unsaid, scaling(spelling, parts)) for spelling, parts in found.modules.items()
    )
    if not modules:
        raise _nothing(bundle, found)
    return Adapter(
        name=bundle.name,
        modules=modules,
        base=base_of(bundle.metadata),
        findings=(*_unknown(found), *_unscaled(modules.values(), unsaid), *_untranslated(found)),
        extras=found.unknown,
        metadata=bundle.metadata,
        path=bundle.path,
        tensors=tuple(_left_out(found)),
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


def _left_out(found: Grouped) -> Iterator[TensorRow]:
    kinds = ", ".join(sorted(set(found.other_kinds.values())))
    for key in found.other_kinds:
        yield TensorRow(key, "left out", why=f"of other kinds than LoRA ({kinds})")
    for tensor in found.orphans.values():
        yield TensorRow(tensor.key, "left out", why="that are alphas of no module in the file")


def _unknown(found: Grouped) -> list[Finding]:
    if not found.unknown:
        return []
    some = ", ".join(list(found.unknown)[:4])
    return [Finding("warn", f"{len(found.unknown)} tensors match no LoRA name ({some}) and are not merged")]


def _unscaled(modules: Collection[LoraModule], unsaid: Scaling) -> list[Finding]:
    """A file in which only some modules have an alpha lost the others: the rule for those without is a guess."""
    without = [module.name for module in modules if module.source == unsaid.source]
    if not without or len(without) == len(modules) or all(module.stored_alpha is None for module in modules):
        return []
    text = f"{len(without)} of {len(modules)} modules have no alpha where the others have one: scaling taken as 1"
    return [Finding("warn", text, without[0])]


def _untranslated(found: Grouped) -> list[Finding]:
    unknown = [spelling for spelling in found.modules if not canonical(spelling).known]
    if not unknown:
        return []
    text = (
        f"{len(unknown)} module names are in no table of base models: they merge only with files of the same spelling"
    )
    return [Finding("warn", text, unknown[0])]
