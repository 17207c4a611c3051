"""LoRA on fused mixture-of-experts parameters (PEFT's target_parameters), taken apart into one pair for each expert.

PEFT stores all experts in one pair, A by expert and B by rank: with a = A.view(E, r, in) and b = B.view(out, r, E),
dW[e] = scaling * b[:, :, e] @ a[e]. So every expert is an ordinary pair of rank r, exactly. Parameters of one module
are nested, the first of them innermost, and their names stand in the config alone. Source: read
off huggingface/peft (ParamWrapper).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from studio.core.adapter import LoraModule
from studio.core.errors import Refused
from studio.core.tensors import Array, TensorRef
from studio.formats.modules.pairs import folded, require_filled
from studio.formats.modules.scaling import Scaling

NESTED = ".base_layer"
# Two parameters of one module come in the order in which transformers registers them.
_ORDER = ("gate_up_proj", "down_proj")


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """All experts of one parameter, `module.parameter`, each a module of the same shape."""

    parameter: str
    experts: tuple[LoraModule, ...]

    @property
    def module(self) -> str:
        """The path of the module that holds the parameter."""
        return self.parameter.rpartition(".")[0]

    def shapes(self, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Shapes of A (rank E, in) and B (out, rank E) as PEFT stores them."""
        first, count = self.experts[0], len(self.experts)
        return (rank * count, first.d_in), (first.d_out, rank * count)

    def pair(self, rank: int) -> tuple[Array, Array]:
        """A and B as PEFT stores them, the scaling folded in."""
        pairs = [folded(expert, rank) for expert in self.experts]
        down, up = self.shapes(rank)
        return np.concatenate([a for a, _ in pairs]).reshape(down), np.stack([b for _, b in pairs], -1).reshape(up)


def parameter_of(name: str, targets: Sequence[str]) -> str | None:
    """The parameter that a stored module name adapts, `module.parameter`, or None where it adapts the module itself.

    Raises `Refused` where the config does not say which parameter it is.
    """
    module = name.removesuffix(NESTED)
    leaves = sorted({target.rpartition(".")[2] for target in targets if _holds(module, target)}, key=_position)
    if not leaves:
        if module == name:
            return None
        raise Refused("this is LoRA on parameters of a module", f"its config's target_parameters do not name {module}")
    if len(leaves) == 1 and module == name:
        return f"{module}.{leaves[0]}"
    if tuple(leaves) != _ORDER:
        why = f"the order of {', '.join(leaves)} in {module} is not known"
        raise Refused("this is LoRA on several parameters of one module, not plain LoRA", why, "train on modules")
    return f"{module}.{leaves[0] if name.endswith(NESTED) else leaves[1]}"


def split_experts(
    parameter: str, down: TensorRef, up: TensorRef, rank: int | None, scaling: Scaling
) -> list[LoraModule]:
    """One module for each expert, `parameter.0` and so on; a parameter `weight` of a single matrix is its module.

    `rank` is the config's: the tensors alone do not tell it from the number of experts. Raises `Refused` where it does
    not divide.
    """
    require_filled(parameter, down, up)
    fits = len(down.shape) == len(up.shape) == 2 and down.shape[0] == up.shape[1]
    if not rank or not fits or down.shape[0] % rank:
        why = f"its shapes are {list(down.shape)} and {list(up.shape)}, the config's rank is {rank}"
        raise Refused(f"{parameter} cannot be divided into experts", why, "check adapter_config.json")
    count = down.shape[0] // rank
    module, _, leaf = parameter.rpartition(".")
    is_matrix = count == 1 and leaf == "weight"
    return [
        LoraModule(
            name=module if is_matrix else f"{parameter}.{expert}",
            rank=rank,
            d_in=down.shape[1],
            d_out=up.shape[0],
            scaling=scaling.value,
            load=_Expert(down, up, expert, count),
            kind="linear" if is_matrix else "expert",
            dtype=down.dtype,
            keys=(down.key, up.key),
            source=scaling.source,
        )
        for expert in range(count)
    ]


def fused_experts(modules: Mapping[str, LoraModule]) -> list[Fused]:
    """The experts among these modules, put together again by parameter. Raises `Refused` where one is missing."""
    found: dict[str, dict[int, LoraModule]] = {}
    for name, module in modules.items():
        if module.kind == "expert":
            parameter, _, number = name.rpartition(".")
            found.setdefault(parameter, {})[int(number)] = module
    for parameter, experts in found.items():
        if sorted(experts) != list(range(len(experts))) or len({module.shape for module in experts.values()}) > 1:
            raise Refused(f"{parameter} cannot be put together", f"it has experts {sorted(experts)}")
    return [Fused(name, tuple(experts[i] for i in range(len(experts)))) for name, experts in found.items()]


def stored_names(fused: Sequence[Fused]) -> Iterator[tuple[str, Fused]]:
    """The module name under which PEFT stores each parameter: the first of two is nested in the second."""
    modules = [group.module for group in fused]
    for group in fused:
        is_inner = modules.count(group.module) > 1 and group.parameter.endswith(f".{_ORDER[0]}")
        yield group.module + NESTED * is_inner, group


@dataclass(frozen=True, slots=True, eq=False)
class _Expert:
    """Reads one expert's pair out of all."""

    down: TensorRef
    up: TensorRef
    expert: int
    count: int

    def __call__(self) -> tuple[Array, Array]:
        rank = self.down.shape[0] // self.count
        a = self.down.rows(self.expert * rank, (self.expert + 1) * rank)
        b = self.up.read().reshape(self.up.shape[0], -1, self.count)[:, :, self.expert]
        return np.ascontiguousarray(a), np.ascontiguousarray(b)


def _holds(module: str, target: str) -> bool:
    """Whether a target parameter belongs to a module, by PEFT's rule: equal, or the end of its path."""
    owner = target.rpartition(".")[0]
    return bool(owner) and (module == owner or module.endswith(f".{owner}"))


def _position(leaf: str) -> tuple[int, str]:
    return (_ORDER.index(leaf) if leaf in _ORDER else len(_ORDER)), leaf
