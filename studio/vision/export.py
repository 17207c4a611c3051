"""One analogy kept as an ordinary LoRA: a merge of the basis's adapters, so recipe, report and export are the usual.

The update of a mix is the weighted sum of the adapters, weighted by layer. `cat` writes it exactly, at rank N r;
`svd` cuts it to a rank by QR of the factors and says what energy it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.composing.compose import Composition, compose
from studio.core.files import sha256
from studio.formats.containers.lorweb_file import PREFIX, find_lorweb
from studio.formats.opening import member_digest
from studio.recipes.recipe import Recipe, Source
from studio.recipes.sources import Sources
from studio.vision.lorweb import Lorweb
from studio.vision.pipeline import EMBEDDED

if TYPE_CHECKING:
    from torch import Tensor

_DIGITS = 7  # of a weight in the recipe: float32 has no more


@dataclass(frozen=True, eq=False)
class OpenBasis:
    """A basis and the file it came from, whose adapters a recipe can name."""

    basis: Lorweb
    file: Path

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights file."""
        return sha256(self.file)

    @cached_property
    def sources(self) -> Sources:
        """Every adapter of the basis, opened, in order."""
        members = tuple(self.basis.member(index) for index in range(self.basis.size))
        return Sources(members, hashes=tuple(member_digest(self.digest, str(k + 1)) for k in range(len(members))))

    def source(self, index: int) -> Source:
        """Where a recipe finds one adapter, by its index from 0."""
        is_ours = self.file.resolve() == find_lorweb(EMBEDDED / "lorweb").resolve()
        path = f"loom:basis-{index + 1}" if is_ours else f"{self.file}#{index + 1}"
        return Source(path=path, name=f"basis {index + 1}", sha256=member_digest(self.digest, str(index + 1)))


def recipe_of(
    opened: OpenBasis,
    mix: Tensor,
    strength: float = 1.0,
    *,
    rank: int = 0,
    name: str = "analogy",
    note: str = "",
) -> Recipe:
    """The recipe of a mix (layers, N): its adapters weighted by layer; `rank` 0 keeps all, exactly.

    Raises `LoomError` for a mix of the wrong shape.
    """
    shares = (opened.basis.check(mix).float() * strength).tolist()
    sources = [
        opened.source(index).model_copy(
            update={
                "weight": 0.0,
                "modules": {
                    PREFIX + layer: _rounded(row[index]) for layer, row in zip(opened.basis.layers, shares, strict=True)
                },
            }
        )
        for index in range(opened.basis.size)
    ]
    method = {"method": "svd", "knobs": {"rank": rank}} if rank else {"method": "cat"}
    return Recipe.model_validate({"name": name, "note": note, "sources": _fields(sources), **method})


def recipe_at_large(opened: OpenBasis, mix: Tensor, strength: float, chosen: Sequence[int]) -> Recipe:
    """A recipe of some adapters, by index from 0, at their mean shares over layers: one weight each, to be moved."""
    means = (opened.basis.check(mix).float().mean(0) * strength).tolist()
    sources = [opened.source(index).model_copy(update={"weight": _rounded(means[index], digits=3)}) for index in chosen]
    note = f"The {len(chosen)} strongest adapters of a LoRWeB basis in one analogy, at their mean shares over layers."
    return Recipe.model_validate({"name": "basis", "note": note, "sources": _fields(sources), "method": "cat"})


def _fields(sources: Sequence[Source]) -> list[dict[str, Any]]:
    return [source.model_dump() for source in sources]


def _rounded(value: float, digits: int = _DIGITS) -> float:
    return float(f"{value:.{digits}g}")


def kept(opened: OpenBasis, recipe: Recipe, on_step: Callable[[int, int, str], None] | None = None) -> Composition:
    """Compose a recipe of `recipe_of` that takes every adapter, without opening the file again."""
    return compose(recipe, opened.sources, on_step=on_step)


def strongest(mix: Tensor, count: int) -> tuple[int, ...]:
    """The adapters with the largest mean share, by index, strongest first."""
    order: list[int] = mix.abs().mean(0).argsort(descending=True).tolist()
    return tuple(order[:count])
