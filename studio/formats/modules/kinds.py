"""Build one module from its parts: a pair, LoCon with a Tucker core, LoHa, LoKr or a whole difference. All exactly.

Scaling is alpha / r with r the inner size of the stored factors; 1 for whole differences, and where LyCORIS stores LoKr
as two full matrices. Every part must have its place: a pair with a whole difference beside it is no pair.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from studio.core.adapter import LoraModule
from studio.core.errors import Refused
from studio.formats.modules.factors import Full, Hadamard, Kronecker, LowRank, Product, Tucker
from studio.formats.modules.names import canonical
from studio.formats.modules.pairs import stored_module
from studio.formats.modules.parts import Parts, alpha_of
from studio.formats.modules.scaling import Scaling, by_alpha, said

_WHOLE = said(1.0, "a whole difference is added as it is")
_TWO_WHOLE = "LyCORIS applies 1 to two whole factors, whatever the alpha"


def build(spelling: str, parts: Parts, unsaid: Scaling, scaling: Scaling | None = None) -> LoraModule:
    """The module of a file's parts under its canonical name.

    `scaling` overrides what the parts say, `unsaid` holds where they say nothing. Raises `Refused` for DoRA, for parts
    that do not make a module, and for parts of more than one.
    """
    if "dora_scale" in parts:
        raise Refused(
            "this is DoRA, not plain LoRA",
            f"{spelling} has a magnitude (dora_scale) beside its pair",
            "train without DoRA, or merge it into its base",
        )
    name = canonical(spelling).name
    if {"down", "up"} <= parts.keys() and "mid" not in parts:
        _require_no_more(spelling, parts, ("down", "up"))
        rank = parts["down"].shape[0] if parts["down"].shape else 0
        module = stored_module(name, parts["down"], parts["up"], scaling or _scaling(spelling, parts, rank, unsaid))
        return replace(module, keys=_keys(parts))
    product, inner, origin, used = _product(spelling, parts)
    _require_no_more(spelling, parts, used)
    found = scaling or (_WHOLE if isinstance(product, Full) else _scaling(spelling, parts, inner, unsaid))
    kernel = product.kernel or None
    return LoraModule(
        name=name,
        rank=product.rank,
        d_in=product.columns,
        d_out=product.rows,
        scaling=found.value,
        load=product,
        kind="conv" if kernel else "linear",
        kernel=kernel,
        dtype=next(parts[role].dtype for role in used),
        origin=origin,
        stored_alpha=found.alpha,
        keys=_keys(parts),
        source=found.source,
    )


def _product(spelling: str, parts: Parts) -> tuple[LowRank, int | None, str, tuple[str, ...]]:
    """The product, the rank that alpha is divided by, the kind's name, and the parts that it is made of."""
    try:
        if "diff" in parts:
            return Full(parts["diff"]), None, "whole difference", ("diff",)
        if {"down", "up", "mid"} <= parts.keys():
            tucker = Tucker(parts["mid"], parts["up"], parts["down"], up_by_row=True)
            return tucker, tucker.rank, "locon-tucker", ("down", "up", "mid")
        if "hada_w1_a" in parts:
            (first, one), (second, two) = (_factor(parts, f"hada_w{index}", f"hada_t{index}") for index in (1, 2))
            return Hadamard(first, second), first.rank, "loha", one + two
        if any(part.startswith("lokr_w1") for part in parts):
            (first, one), (second, two) = (_factor(parts, f"lokr_w{index}", f"lokr_t{index}") for index in (1, 2))
            inner = next((factor.rank for factor in (second, first) if not isinstance(factor, Full)), None)
            return Kronecker(first, second), inner, "lokr", one + two
    except KeyError as missing:
        raise Refused(
            f"{spelling} is not whole", f"{missing.args[0]} is missing", "save the adapter again"
        ) from missing
    raise Refused(f"{spelling} is not whole", f"it has only {', '.join(parts)}", "save the adapter again")


def _factor(parts: Parts, weight: str, core: str) -> tuple[LowRank, tuple[str, ...]]:
    """One factor of LoHa or LoKr, whole or in two or three parts, and the names of those."""
    if weight in parts:
        return Full(parts[weight]), (weight,)
    a, b = f"{weight}_a", f"{weight}_b"
    if core in parts:
        return Tucker(parts[core], parts[a], parts[b]), (a, b, core)
    return Product(parts[a], parts[b]), (a, b)


def _require_no_more(spelling: str, parts: Parts, used: Collection[str]) -> None:
    """Refuse a layer that is changed in two ways: tools take the one, the other or both."""
    more = [role for role in parts if role not in used and role != "alpha"]
    if more:
        raise Refused(
            f"{spelling} holds more than one update of its layer",
            f"beside {', '.join(used)} it has {', '.join(more)}; ComfyUI takes the last alone, other tools add them",
            "save it with one of them",
        )


def _keys(parts: Parts) -> tuple[str, ...]:
    return tuple(tensor.key for tensor in parts.values())


def _scaling(spelling: str, parts: Parts, rank: int | None, unsaid: Scaling) -> Scaling:
    alpha = alpha_of(spelling, parts)
    if alpha is None:
        return unsaid
    return by_alpha(alpha, rank, "its alpha tensor") if rank else said(1.0, _TWO_WHOLE, alpha)
