"""Turn two stored tensors into one adapted module, checking that they fit each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from studio.core.adapter import Kind, LoraModule
from studio.core.errors import Refused
from studio.core.tensors import Array, TensorRef
from studio.formats.modules.scaling import Scaling


@dataclass(frozen=True, slots=True, eq=False)
class StoredPair:
    """Reads A (rank, d_in) and B (d_out, rank) from their file.

    Convolutions are flattened; `transposed` is for files that store (d_in, rank) and (rank, d_out).
    """

    down: TensorRef
    up: TensorRef
    transposed: bool = False

    def __call__(self) -> tuple[Array, Array]:
        """A and B as float32."""
        a, b = self.down.read(), self.up.read()
        if self.transposed:
            return a.T, b.T
        return a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)


@dataclass(frozen=True, slots=True, eq=False)
class PairRows:
    """Reads a part of a fused pair: some rows of B, and all ranks or its own."""

    fused: Callable[[], tuple[Array, Array]]
    rows: slice
    ranks: slice

    def __call__(self) -> tuple[Array, Array]:
        """A and B as float32."""
        a, b = self.fused()
        return a[self.ranks], b[self.rows, self.ranks]


def stored_module(
    name: str, down: TensorRef, up: TensorRef, scaling: Scaling, kind: Kind | None = None, *, transposed: bool = False
) -> LoraModule:
    """The module of a pair stored as down (rank, in, *kernel) and up (out, rank, *ones).

    `transposed` is for matrices stored as down (in, rank) and up (rank, out). Raises `Refused` where the two are empty,
    do not share a rank, or are not a pair of a linear, convolution or embedding layer.
    """
    require_filled(name, down, up)
    down_shape, up_shape = (down.shape[::-1], up.shape[::-1]) if transposed else (down.shape, up.shape)
    _require_pair(name, down_shape, up_shape, 2 if transposed else 5)
    kernel = tuple(down_shape[2:]) or None
    return LoraModule(
        name=name,
        rank=down_shape[0],
        d_in=math.prod(down_shape[1:]),
        d_out=up_shape[0],
        scaling=scaling.value,
        load=StoredPair(down, up, transposed),
        kind=kind or ("conv" if kernel else "linear"),
        kernel=kernel,
        dtype=down.dtype,
        stored_alpha=scaling.alpha,
        keys=(down.key, up.key),
        source=scaling.source,
    )


def require_filled(name: str, *tensors: TensorRef) -> None:
    """Refuse tensors without a single number. ZeRO-3 leaves them so where it is not told to gather them first."""
    if any(0 in tensor.shape for tensor in tensors):
        shapes = " and ".join(str(list(tensor.shape)) for tensor in tensors)
        raise Refused(
            f"{name} is empty",
            f"its shapes are {shapes}: it was saved under DeepSpeed ZeRO-3 (or FSDP) without gathering the weights",
            "save it again from the gathered model",
        )


def _require_pair(name: str, down: tuple[int, ...], up: tuple[int, ...], dimensions: int) -> None:
    shapes = f"their shapes are {list(down)} and {list(up)}"
    if not 2 <= len(down) <= dimensions or not 2 <= len(up) <= dimensions or any(size != 1 for size in up[2:]):
        raise Refused(f"{name} is not a low-rank pair", shapes)
    rank, columns = down[0], up[1]
    if rank == columns:
        return
    if len(up) > 2 and rank % columns == 0:
        what = f"{name} is LoRA on a convolution of {rank // columns} groups, not one pair"
        raise Refused(what, f"{shapes}; PEFT cannot merge such a layer either", "train without it")
    if rank in (2 * columns, 3 * columns):
        what = f"{name} is LoRA on parts of a fused layer (loralib's MergedLinear, lit-gpt), not one pair"
        raise Refused(what, f"{shapes}, and the file does not say which parts", "convert it to PEFT's format")
    if columns % rank == 0:
        why = f"{shapes}: as if one process had saved its own slice of each (FSDP, tensor parallel)"
        raise Refused(f"{name}: the two halves do not share a rank", why, "save it again from the gathered model")
    raise Refused(f"{name}: the two halves do not share a rank", shapes, "save the adapter again")


def folded(module: LoraModule, rank: int) -> tuple[Array, Array]:
    """A (rank, d_in) and B (d_out, rank) with the scaling folded into B: zero rows and columns fill up to `rank`."""
    a, b = module
    more = rank - module.rank
    scaled = (module.scaling * b).astype(np.float32, copy=False)
    return np.pad(a, ((0, more), (0, 0))), np.pad(scaled, ((0, 0), (0, more)))


def stored_shapes(module: LoraModule, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of down and up as torch's layers have them; a convolution's kernel stands on the down side."""
    kernel = module.kernel or ()
    down = (rank, module.d_in // math.prod(kernel), *kernel)
    return down, (module.d_out, rank, *(1 for _ in kernel))


def unique(modules: Iterable[LoraModule]) -> dict[str, LoraModule]:
    """Modules by name; refuses two spellings of one layer."""
    found: dict[str, LoraModule] = {}
    for module in modules:
        if module.name in found:
            why = f"the second time as {', '.join(module.keys) or module.name}"
            raise Refused(f"{module.name} appears twice in the file", why, "save one adapter a file")
        found[module.name] = module
    return found


def require_both_halves(downs: Mapping[str, TensorRef], ups: Mapping[str, TensorRef]) -> None:
    """Refuse an adapter in which some module has only one of its two matrices."""
    missing_up, missing_down = sorted(downs.keys() - ups.keys()), sorted(ups.keys() - downs.keys())
    if not missing_up and not missing_down:
        return
    half, alone = ("B (up)", missing_up) if missing_up else ("A (down)", missing_down)
    raise Refused(
        f"this is half an adapter: {half} is missing for {len(alone)} of {len(downs.keys() | ups.keys())} modules",
        f"for example {alone[0]}",
        "save both matrices of every module",
    )
