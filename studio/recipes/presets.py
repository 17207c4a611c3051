"""The recipes that come with the studio."""

from __future__ import annotations

from studio.core.data import presets
from studio.core.errors import BadRecipe
from studio.recipes.recipe import Recipe, load


def preset_ids() -> tuple[str, ...]:
    """The presets in the order of their file names; the first greets a new visitor."""
    return tuple(path.stem for path in sorted(presets().glob("*.yaml")))


def load_preset(id: str) -> Recipe:
    """A preset by its id. Raises `BadRecipe` for one that is not there."""
    if id not in preset_ids():
        raise BadRecipe(f"There is no preset {id!r}", f"there are {', '.join(preset_ids())}")
    return load(presets() / f"{id}.yaml")


def preset_choices() -> list[tuple[str, str]]:
    """(title, id) of every preset."""
    return [(load_preset(id).name, id) for id in preset_ids()]
