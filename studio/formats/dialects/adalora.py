"""Read PEFT's AdaLoRA, which is low-rank: dW = s B diag(E) A, with the singular values E folded into A. Exactly.

s = lora_alpha / (ranknum + 1e-5), as PEFT has it, and ranknum is the rank that training began with, init_r: PEFT keeps
it when ranks are pruned and does not save it. Modules pruned to rank 0 change nothing. Patterns and rsLoRA have no part
in it. A convolution's kernel is not in the file: such a module reads as a linear one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from studio.core.account import TensorRow
from studio.core.adapter import Adapter, Finding, LoraModule
from studio.core.errors import Refused
from studio.core.tensors import Array, TensorRef
from studio.formats.containers.bundle import CONFIG, Bundle
from studio.formats.dialects.peft import base_findings
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.pairs import require_both_halves, require_filled, unique
from studio.formats.modules.peft_config import PeftConfig, read_peft_config
from studio.formats.modules.peft_keys import Sorted, Stored, sort_keys
from studio.formats.modules.scaling import Scaling, said

_ROLES: Final = {"lora_A": "down", "lora_B": "up", "lora_E": "values", "ranknum": "ranknum"}
# Fields of AdaLoraConfig that guide training, and those of LoraConfig that it does not use.
_OF_TRAINING: Final = (
    *("r", "target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"),
    *("rank_pattern", "alpha_pattern", "use_rslora"),
)
_PRUNED = "of modules that AdaLoRA pruned to rank 0"


def sniff(bundle: Bundle) -> str | None:
    """Evidence of AdaLoRA, or None."""
    if str((bundle.config or {}).get("peft_type")).upper() == "ADALORA":
        return f"{CONFIG} with peft_type ADALORA"
    found = next((key for key in bundle.keys if "lora_E" in key.split(".")[-3:]), None)
    return f"keys such as {found}" if found else None


def read(bundle: Bundle) -> Adapter:
    """Read every module with its singular values. Raises `Refused` without AdaLoRA's config, which alone gives the
    scaling, and where a tensor of a module is missing.
    """
    given = bundle.config or {}
    if str(given.get("peft_type")).upper() != "ADALORA":
        raise Refused(
            "this is AdaLoRA without its config", f"{CONFIG} alone says the scaling", f"put {CONFIG} beside it"
        )
    config = read_peft_config({**{key: given[key] for key in given if key not in _OF_TRAINING}, "peft_type": "LORA"})
    found, scaling = sort_keys(bundle.tensors, _ROLES), _scaling(config, given)
    _require_whole(found)
    pruned = tuple(name for name, stored in found.modules.items() if _is_pruned(stored))
    modules = unique(_module(name, found.modules[name], scaling) for name in found.modules if name not in pruned)
    if not modules:
        raise Refused(f"{bundle.name} changes nothing", "AdaLoRA pruned each of its modules to rank 0")
    return Adapter(
        name=bundle.name,
        modules=modules,
        base=config.base,
        findings=(*config.findings, *_ranknum_findings(found, given), *base_findings(bundle, config)),
        extras=found.extras,
        config=config.carried,
        metadata=bundle.metadata,
        path=bundle.path,
        tensors=(*found.left_out, *_unused(found, pruned)),
    )


ADALORA = Dialect(
    "adalora",
    title="PEFT's AdaLoRA",
    source="huggingface/peft, tuners/adalora",
    keys="`lora_E` beside `lora_A` and `lora_B`",
    scaling="lora_alpha / (init_r + 1e-5), the singular values folded into A",
    names="as those of `peft`",
    sniff=sniff,
    read=read,
    tested_with="PEFT",
    also_claimed_by={"peft": "its other endings are PEFT's, as is the config"},
)


@dataclass(frozen=True, slots=True, eq=False)
class _Svd:
    """Reads B (d_out, rank) and diag(E) A (rank, d_in)."""

    down: TensorRef
    values: TensorRef
    up: TensorRef

    def __call__(self) -> tuple[Array, Array]:
        return self.down.read() * self.values.read().reshape(-1, 1), self.up.read()


def _scaling(config: PeftConfig, given: Mapping[str, Any]) -> Scaling:
    rank, alpha = given.get("init_r"), config.alpha
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 < rank <= 1 << 20 or alpha is None:
        why = f"its init_r is {str(rank)[:40]}, its lora_alpha {alpha}"
        raise Refused("this is AdaLoRA with half a config", why, f"give the {CONFIG} that PEFT wrote")
    factor = (alpha if alpha > 0 else rank) / (rank + 1e-5)
    return said(factor, f"lora_alpha / init_r of {CONFIG}: {alpha:g} / {rank}", alpha)


def _require_whole(found: Sorted) -> None:
    downs, values = found.of_role("down"), found.of_role("values")
    require_both_halves(downs, found.of_role("up"))
    odd = sorted(downs.keys() ^ values.keys())
    if odd or not downs:
        why = f"{odd[0]} has only one of lora_A and lora_E" if odd else "it holds no lora_A"
        raise Refused("this is AdaLoRA that is not whole", why, "save the adapter again")


def _is_pruned(stored: Stored) -> bool:
    down, up, values = (stored.parts[role].shape for role in ("down", "up", "values"))
    return len(down) == len(up) == 2 and down[0] == up[1] == 0 == math.prod(values)


def _module(name: str, stored: Stored, scaling: Scaling) -> LoraModule:
    down, up, values = (stored.parts[role] for role in ("down", "up", "values"))
    require_filled(name, down, up, values)
    if not len(down.shape) == len(up.shape) == 2 or not down.shape[0] == up.shape[1] == values.size:
        shapes = f"its shapes are {list(down.shape)}, {list(values.shape)} and {list(up.shape)}"
        raise Refused(f"{name} is not AdaLoRA's B diag(E) A", shapes, "save the adapter again")
    return LoraModule(
        name=name,
        rank=down.shape[0],
        d_in=down.shape[1],
        d_out=up.shape[0],
        scaling=scaling.value,
        load=_Svd(down, values, up),
        dtype=down.dtype,
        origin="adalora",
        stored_alpha=scaling.alpha,
        keys=(down.key, up.key, values.key),
        source=scaling.source,
    )


def _unused(found: Sorted, pruned: tuple[str, ...]) -> Iterator[TensorRow]:
    for name, stored in found.modules.items():
        for role, tensor in stored.parts.items():
            if name in pruned:
                yield TensorRow(tensor.key, "left out", why=_PRUNED, is_harmless=True)
            elif role == "ranknum":
                why = "of ranks as training had them, which PEFT takes from init_r,"
                yield TensorRow(tensor.key, "left out", why=why, is_harmless=True)


def _ranknum_findings(found: Sorted, given: Mapping[str, Any]) -> list[Finding]:
    stored = {
        name: float(np.ravel(tensor.read())[0]) for name, tensor in found.of_role("ranknum").items() if tensor.size
    }
    odd = next((name for name, value in stored.items() if value != given["init_r"]), None)
    if odd is None:
        return []
    text = f"the file says that it was trained at rank {stored[odd]:g}, its config {given['init_r']}"
    return [Finding("warn", f"{text}: the config is believed, as by PEFT", odd)]
