"""Build one module from its parts: a pair, LoCon with a Tucker core, LoHa, LoKr or a whole difference. All exactly.

Scaling is alpha / r with r the inner size of the stored factors; 1 without alpha, for whole differences, and where
LyCORIS stores LoKr as two full matrices.
"""

from __future__ import annotations

from studio.core.adapter import LoraModule, delta_scale
from studio.core.errors import Refused
from studio.formats.modules.factors import Full, Hadamard, Kronecker, LowRank, Product, Tucker
from studio.formats.modules.names import canonical
from studio.formats.modules.pairs import stored_module
from studio.formats.modules.parts import Parts, alpha_of


def build(spelling: str, parts: Parts, scaling: float | None = None) -> LoraModule:
    """The module of a file's parts under its canonical name; `scaling` overrides what the parts say.

    Raises `Refused` for DoRA and for parts that do not make a module.
    """
    if "dora_scale" in parts:
        raise Refused(
            "this is DoRA, not plain LoRA",
            f"{spelling} has a magnitude (dora_scale) beside its pair",
            "train without DoRA, or merge it into its base",
        )
    name = canonical(spelling).name
    if {"down", "up"} <= parts.keys() and "mid" not in parts:
        pair_rank = parts["down"].shape[0] if parts["down"].shape else 0
        pair_scaling = _scaling(spelling, parts, pair_rank, scaling)
        return stored_module(name, parts["down"], parts["up"], pair_scaling, alpha=alpha_of(spelling, parts))
    product, rank, origin = _product(spelling, parts)
    kernel = product.kernel or None
    return LoraModule(
        name=name,
        rank=product.rank,
        d_in=product.columns,
        d_out=product.rows,
        scaling=_scaling(spelling, parts, rank, scaling),
        load=product,
        kind="conv" if kernel else "linear",
        kernel=kernel,
        dtype=next(iter(parts.values())).dtype,
        origin=origin,
        stored_alpha=alpha_of(spelling, parts),
    )


def _product(spelling: str, parts: Parts) -> tuple[LowRank, int | None, str]:
    """The product, the rank that alpha is divided by, and the kind's name."""
    if "diff" in parts and set(parts) <= {"diff", "alpha"}:
        return Full(parts["diff"]), None, "whole difference"
    try:
        if {"down", "up", "mid"} <= parts.keys():
            tucker = Tucker(parts["mid"], parts["up"], parts["down"], up_by_row=True)
            return tucker, tucker.rank, "locon-tucker"
        if "hada_w1_a" in parts:
            first, second = _hada(parts, 1), _hada(parts, 2)
            return Hadamard(first, second), first.rank, "loha"
        if any(part.startswith("lokr_w1") for part in parts):
            one, two = _lokr(parts, 1), _lokr(parts, 2)
            inner = next((factor.rank for factor in (two, one) if not isinstance(factor, Full)), None)
            return Kronecker(one, two), inner, "lokr"
    except KeyError as missing:
        raise Refused(
            f"{spelling} is not whole", f"{missing.args[0]} is missing", "save the adapter again"
        ) from missing
    raise Refused(f"{spelling} is not whole", f"it has only {', '.join(parts)}", "save the adapter again")


def _hada(parts: Parts, index: int) -> LowRank:
    a, b, core = parts[f"hada_w{index}_a"], parts[f"hada_w{index}_b"], parts.get(f"hada_t{index}")
    return Product(a, b) if core is None else Tucker(core, a, b)


def _lokr(parts: Parts, index: int) -> LowRank:
    full = parts.get(f"lokr_w{index}")
    if full is not None:
        return Full(full)
    a, b, core = parts[f"lokr_w{index}_a"], parts[f"lokr_w{index}_b"], parts.get(f"lokr_t{index}")
    return Product(a, b) if core is None else Tucker(core, a, b)


def _scaling(spelling: str, parts: Parts, rank: int | None, override: float | None) -> float:
    if override is not None:
        return override
    alpha = alpha_of(spelling, parts)
    return delta_scale(rank, alpha) if rank and alpha is not None else 1.0
