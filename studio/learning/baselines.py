"""The rows that every learned merge is shown with: uniform cat, the sum, a target LoRA, random LoRAs learned alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from studio.composing.compose import compose
from studio.evaluation.scoreboard import Entry
from studio.learning.controls import TargetSettings, random_like, target_lora
from studio.learning.data import Examples
from studio.learning.fit import Stop
from studio.learning.learners import coefficients
from studio.learning.registry import LearnRequest
from studio.recipes.recipe import Recipe
from studio.recipes.sources import Sources
from studio.text.bases import TextBase

OnPart = Callable[[str], None]


def controls(
    base: TextBase,
    recipe: Recipe,
    sources: Sources,
    examples: Examples,
    request: LearnRequest,
    *,
    target: TargetSettings | None = None,
    on_part: OnPart | None = None,
    stop: Stop | None = None,
) -> Iterator[Entry]:
    """The controls of a merge learned over a recipe's sources by this request, one by one as they are made.

    Where the request has a target LoRA join the pool, it is the last of the sources, and no random LoRA replaces it.
    `on_part(name)` is called before each that takes time. Base and sources alone are rows of every scoreboard already.
    """
    say, plain = on_part or _silent, recipe.model_dump()["sources"]
    count = len(plain) - (request.target is not None)
    for name, weight in (("uniform cat", 1 / count), ("sum", 1.0)):
        given = [{**s, "weight": weight if i < count else 0.0, "modules": {}, "units": {}} for i, s in enumerate(plain)]
        yield Entry(name, "control", recipe.changed(name=name, method="cat", knobs={}, scale=1.0, sources=given))
    pool, pooled = sources.adapters[:count], sources.adapters[count:]
    say("target LoRA")
    trained = pooled[0] if pooled else target_lora(base, pool, examples, target, stop=stop)
    yield Entry("target LoRA", "control", None, trained)
    say("random LoRAs")
    drawn = random_like(pool, request.seed)
    found = coefficients(base, drawn, examples, request, target=pooled[0] if pooled else None, stop=stop)
    alike = found.into(recipe.changed(sources=[{**source, "units": {}} for source in plain]))
    silent = not any(c for source in alike.sources for c in (source.weight, *source.modules.values()))
    everything = Sources((*drawn, *(replace(one, name="target") for one in pooled)))
    yield Entry("random LoRAs", "control", None, None if silent else compose(alike, everything).adapter)


def _silent(part: str) -> None:
    """The `on_part` of callers that gave none."""
