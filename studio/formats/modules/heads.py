"""The rows of q and k by head: GGUF and Meta's own code order those of Llama's kin otherwise than transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from studio.core.adapter import LoraModule
from studio.core.errors import Refused
from studio.core.tensors import Array


def permute_rows(b: Array, head: int) -> Array:
    """Rows of each head from two halves, as transformers has them, to pairs."""
    return np.ascontiguousarray(b.reshape(-1, 2, head // 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape))


def unpermute_rows(b: Array, head: int) -> Array:
    """The inverse of `permute_rows`."""
    return np.ascontiguousarray(b.reshape(-1, head // 2, 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape))


def unpermuted(module: LoraModule, head: int) -> LoraModule:
    """The module with its rows in the order of transformers, `head` rows a head.

    Raises `Refused` where they do not divide so.
    """
    if head % 2 or module.d_out % head:
        raise Refused(f"{module.name} has {module.d_out} rows", f"its base's heads have {head}", "check the base model")
    return replace(module, load=_Unpermuted(module.load, head))


@dataclass(frozen=True, slots=True, eq=False)
class _Unpermuted:
    """Reads a pair of q or k with its rows in the order of transformers."""

    pair: Callable[[], tuple[Array, Array]]
    head: int

    def __call__(self) -> tuple[Array, Array]:
        a, b = self.pair()
        return a, unpermute_rows(b, self.head)
