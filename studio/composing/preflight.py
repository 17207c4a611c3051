"""What must be true before a merge: refused with a reason here, rather than done wrongly later."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from itertools import combinations
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from studio.core.adapter import Adapter
from studio.core.errors import CannotMerge
from studio.merging.registry import Method

if TYPE_CHECKING:
    from studio.recipes.recipe import Source

_LOUD = 5.0  # one source this many times stronger than another drowns it
_LARGE = 1.8  # times the largest source; three equal sources that do not overlap give 1.73
_SAME = 0.9999  # two sources of this cosine are one adapter times a constant, but for rounding


def check(adapters: Sequence[Adapter], method: Method, *, other_bases: bool = False) -> tuple[str, ...]:
    """Raise `CannotMerge` for what cannot be right; return warnings for what may surprise. Reads no values."""
    if not adapters:
        raise CannotMerge(
            "There is nothing to merge", "no adapter is given, or every weight is zero", "add one, or raise a weight"
        )
    if method.max_sources and len(adapters) > method.max_sources:
        raise CannotMerge(
            f"{method.id} takes at most {method.max_sources} adapters, not {len(adapters)}",
            next="set a weight to zero, or use cat or svd",
        )
    for adapter in adapters:
        for finding in adapter.findings:
            if finding.level == "stop":
                raise CannotMerge(f"{adapter.name} cannot be merged", finding.text, "remove it")
    warnings = [*_bases(adapters, other_bases), *_layouts(adapters)]
    for adapter in adapters:
        warnings += [f"{adapter.name}: {finding.text}" for finding in adapter.findings if finding.level == "warn"]
    if method.tier == "legacy":
        warnings.append(f"{method.id} is wrong by design: {method.summary}")
    return tuple(dict.fromkeys(warnings))


def check_signs(
    method: Method, sources: Sequence[Source], weights: Sequence[float], adapters: Sequence[Adapter]
) -> None:
    """Raise `CannotMerge` where a module has a negative weight and the method takes none; one weight a source."""
    for source, weight, adapter in () if method.signed else zip(sources, weights, adapters, strict=True):
        lowest = min((source.weight_for(module, weight) for module in adapter.modules), default=0.0)
        if lowest < 0:
            raise CannotMerge(
                f"{method.id} takes no negative weights", f"that of {adapter.name} is {lowest:g}", "use cat or svd"
            )


def loudness(names: Sequence[str], norms: Sequence[float]) -> tuple[str, ...]:
    """A warning where one source is far stronger than another, and for those that change nothing."""
    present = [(norm, name) for norm, name in zip(norms, names, strict=True) if norm > 0]
    silent = [f"{name} changes nothing: its B is zero" for norm, name in zip(norms, names, strict=True) if norm == 0]
    if len(present) < 2:
        return tuple(silent)
    (low, quiet), (high, loud) = min(present), max(present)
    if high <= _LOUD * low:
        return tuple(silent)
    return (
        *silent,
        f"{loud} is {high / low:.0f} times as strong as {quiet} ({high:.3g} and {low:.3g}): balance their weights",
    )


def oversize(norm: float, names: Sequence[str], norms: Sequence[float]) -> tuple[str, ...]:
    """A warning where the merge is far larger than every source: `norms` are those of the sources at weight 1."""
    largest, name = max(zip(norms, names, strict=True), default=(0.0, ""))
    if len(names) < 2 or norm <= _LARGE * largest:
        return ()
    return (
        f"the merge is {norm / largest:.1f} times the size of its largest source ({norm:.3g}; {name}: {largest:.3g}), "
        f"so the model may write nonsense: try every weight at 1/{len(names)}",
    )


def copies(names: Sequence[str], norms: Sequence[float], cosines: Sequence[Sequence[float]]) -> tuple[str, ...]:
    """A warning for each pair of sources that are one adapter times a constant."""
    found = []
    for i, j in combinations(range(len(names)), 2):
        if abs(cosines[i][j]) > _SAME and norms[i] and norms[j]:
            factor = norms[j] / norms[i] * (1 if cosines[i][j] > 0 else -1)
            same = "the same adapter as" if abs(factor - 1) < 1e-3 else f"{factor:.3g} times"
            found.append(f"{names[j]} is {same} {names[i]} (cosine {cosines[i][j]:.5f}): keep one, or it counts twice")
    return tuple(found)


def unmatched(sources: Sequence[Source], adapters: Sequence[Adapter]) -> tuple[str, ...]:
    """A warning for each weight by module and each unit edit that no module of its adapter answers to."""
    return tuple(
        f"{adapter.name} adapts no module {name!r}: its weight or units of its own change nothing"
        for source, adapter in zip(sources, adapters, strict=True)
        for name in dict.fromkeys([*source.modules, *source.units.scale])
        if name not in adapter.modules and not (name in source.modules and fnmatch.filter(adapter.modules, name))
    )


def same_base(one: str | None, other: str | None) -> bool | None:
    """Whether two base names mean one model; None when one of them is not known. The owner or folder may differ."""
    if not one or not other:
        return None
    return _short(one) == _short(other)


def common_base(adapters: Sequence[Adapter]) -> str | None:
    """The base model the adapters share, the fullest of its spellings, or None."""
    named = [adapter.base for adapter in adapters if adapter.base]
    if not named or any(same_base(named[0], name) is False for name in named[1:]):
        return None
    return max(named, key=lambda name: (name.count("/") == 1, -len(name)))


def _short(base: str) -> str:
    return PurePosixPath(base.replace("\\", "/").rstrip("/")).name.lower()


def _bases(adapters: Sequence[Adapter], other_bases: bool) -> list[str]:
    known = [(adapter.name, adapter.base) for adapter in adapters if adapter.base]
    warnings = []
    for name, base in known[1:]:
        first_name, first = known[0]
        if same_base(base, first):
            continue
        text = f"{first_name} was trained on {first}, {name} on {base}"
        if not other_bases:
            raise CannotMerge(
                text, "adapters of different base models do not add up", "allow other bases if you know that they fit"
            )
        warnings.append(f"{text}: merged all the same, because other bases were allowed")
    if known and len(known) < len(adapters):
        silent = ", ".join(adapter.name for adapter in adapters if not adapter.base)
        warnings.append(f"{silent} names no base model: only the shapes say that it fits")
    return warnings


def _layouts(adapters: Sequence[Adapter]) -> list[str]:
    shared = set.intersection(*(set(adapter.modules) for adapter in adapters))
    every = set().union(*(adapter.modules for adapter in adapters))
    if not shared and len(adapters) > 1:
        return ["the adapters share no module: nothing is merged, only put side by side"]
    if len(shared) < len(every):
        return [f"{len(every) - len(shared)} of {len(every)} modules are adapted by some of the adapters only"]
    return []
