"""The rows that every learned merge is shown with: uniform cat, the sum, a target LoRA, random LoRAs learned alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from studio.compose import Sources, compose
from studio.learning.controls import TargetSettings, random_like, target_lora
from studio.learning.data import Examples
from studio.learning.fit import Stop
from studio.learning.soups import Settings, learn
from studio.recipe import Recipe
from studio.scoreboard import Entry
from studio.text.bases import TextBase

OnPart = Callable[[str], None]


def controls(
    base: TextBase,
    recipe: Recipe,
    sources: Sources,
    examples: Examples,
    settings: Settings,
    *,
    target: TargetSettings | None = None,
    seed: int = 0,
    on_part: OnPart | None = None,
    stop: Stop | None = None,
) -> Iterator[Entry]:
    """The controls of a merge learned over a recipe's sources with these settings, one by one as they are made.

    `on_part(name)` is called before each that takes time. Base and sources alone are rows of every scoreboard already.
    """
    say, adapters = on_part or _silent, sources.adapters
    for name, weight in (("uniform cat", 1 / len(adapters)), ("sum", 1.0)):
        plain = [{**s.model_dump(), "weight": weight, "modules": {}, "units": {}} for s in recipe.sources]
        yield Entry(name, "control", recipe.changed(name=name, method="cat", knobs={}, scale=1.0, sources=plain))
    say("target LoRA")
    yield Entry("target LoRA", "control", None, target_lora(base, adapters, examples, target, stop=stop))
    say("random LoRAs")
    drawn = random_like(adapters, seed)
    found = learn(base, drawn, examples, settings, stop=stop)
    alike = found.into(recipe.changed(sources=[{**s.model_dump(), "units": {}} for s in recipe.sources]))
    silent = not any(c for source in alike.sources for c in (source.weight, *source.modules.values()))
    yield Entry("random LoRAs", "control", None, None if silent else compose(alike, Sources(drawn)).adapter)


def _silent(part: str) -> None:
    """The `on_part` of callers that gave none."""
