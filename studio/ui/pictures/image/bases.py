"""What draws in the Image room: the embedded analogy model on a picture of its world, or a diffusers pipeline."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from studio.composing.export import export
from studio.core.errors import LoomError
from studio.formats.containers.lorweb_file import find_lorweb
from studio.recipes.recipe import Recipe
from studio.recipes.sources import UPLOAD
from studio.recipes.uploads import receive
from studio.session.workspace import Workspace
from studio.vision.export import OpenBasis, kept, recipe_of
from studio.vision.pictures import to_picture
from studio.vision.pipeline import EMBEDDED, AnalogyModel, Seen, catalogue, load_embedded
from studio.vision.preview import Stop, Variant, Wish, open_image_base
from studio.vision.space import ready

_TRIED, _WEIGHT = ("grayscale", "blur"), 0.7  # two analogies that show alone and together
_RANK = 16  # of the LoRAs made of them


class Draws(Protocol):
    """What draws one picture with some adapters in it."""

    def draw(self, wish: Wish, variant: Variant, *, stop: Stop | None = None) -> Image.Image:
        """The picture."""


@dataclass(frozen=True, eq=False)
class EmbeddedImages:
    """The embedded analogy model as a base: an example and a b of its world stay, the adapters change."""

    model: AnalogyModel
    seen: Seen

    def draw(self, wish: Wish, variant: Variant, *, stop: Stop | None = None) -> Image.Image:
        """The picture; two steps are enough, and quick enough not to be stopped."""
        return self.model.draw_loras(self.seen, variant.adapters, steps=wish.steps, seed=wish.seed)


@dataclass(eq=False)
class Bases:
    """The open base of the room, one at a time for all visitors, and the embedded model, which waits for no base."""

    _key: str = ""
    _base: Draws | None = None
    _model: AnalogyModel | None = None
    _opening: threading.Lock = field(default_factory=threading.Lock)
    _loading: threading.Lock = field(default_factory=threading.Lock)

    def get(self, source: str, on_step: Any) -> Draws:
        """A diffusers pipeline by folder or Hub id; work for a thread, which tells `on_step` what it waits for."""
        on_step(0, 0, "Another base is being opened; yours comes after it…" if self._opening.locked() else "")
        with self._opening:
            on_step(0, 0, "")
            if self._base is None or self._key != source:
                self._base = None  # the old one goes before the new one comes
                self._base, self._key = open_image_base(source), source
            return self._base

    def model(self) -> AnalogyModel:
        """The embedded model, loaded once."""
        with self._loading:
            if self._model is None:
                self._model = load_embedded()
            return self._model

    def embedded(self, edit: str, scene: int, on_step: Any = None) -> Draws:
        """The embedded model looking at one analogy; without an edit its example changes nothing."""
        found = ready((edit or catalogue()[0],), scene)
        after = found.a2 if edit else found.a
        return EmbeddedImages(self.model(), self.model().look(*map(to_picture, (found.a, after, found.b))))


def brought(bases: Bases, workspace: Workspace, on_step: Any) -> Recipe:
    """A recipe of two analogies, each kept as a LoRA in the visitor's workspace."""
    opened = OpenBasis(bases.model().basis, find_lorweb(EMBEDDED / "lorweb"))
    sources = []
    for name in _TRIED:
        found = ready((name,), 1)
        mix = opened.basis.coefficients(bases.model().look(*map(to_picture, (found.a, found.a2, found.b))).query)
        recipe = recipe_of(opened, mix, rank=_RANK, name=name)
        path = export(kept(opened, recipe), recipe, workspace.exports / f"{name}.zip")
        ((_, folder),) = receive([path], workspace.folder)
        if isinstance(folder, LoomError):
            raise folder
        sources.append({"path": f"{UPLOAD}{folder.name}", "name": name, "weight": _WEIGHT})
    return Recipe.model_validate({"name": "two analogies", "sources": sources, "method": "cat"})
