"""Every learner behind one call, for the page and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from studio.composing.compose import compose
from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe
from studio.core.registry import records
from studio.learning import LEARNERS
from studio.learning.coefficients import OnStep, Soup
from studio.learning.data import Examples
from studio.learning.fit import State, Stop
from studio.learning.registry import Learner, LearnRequest, Pool
from studio.recipes.recipe import Recipe, parse
from studio.recipes.sources import Sources
from studio.text.bases import TextBase

_LEARNERS: Final = records("studio.learning", [f"{id}:LEARNER" for id in LEARNERS], Learner)


def learners() -> Mapping[str, Learner]:
    """All learners by id."""
    return _LEARNERS


def learner_by_id(id: str) -> Learner:
    """The learner of this id, or `BadRecipe` that lists what there is."""
    if id not in _LEARNERS:
        raise BadRecipe(f"There is no learner {id!r}", f"the learners: {', '.join(_LEARNERS)}")
    return _LEARNERS[id]


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """A soup, the adapters it is of, and their places among those given; a target LoRA stands first, at -1."""

    places: tuple[int, ...]
    adapters: tuple[Adapter, ...]
    soup: Soup

    def into(self, recipe: Recipe) -> Recipe:
        """The recipe with these coefficients; sources that were not selected stay, at weight zero.

        A target LoRA that joined the pool is the recipe's last source.
        """
        pool = recipe.model_dump()["sources"]
        learned = self.soup.into(recipe.changed(sources=[pool[place] for place in self.places]))
        sources = [{**source, "weight": 0.0, "modules": {}, "units": {}} for source in pool]
        for place, source in zip(self.places, learned.sources, strict=True):
            sources[place] = source.model_dump()
        return learned.changed(sources=sources)


def edited_sources(recipe: Recipe, sources: Sources) -> tuple[Adapter, ...]:
    """The adapters as the recipe's unit edits leave them, which is what a learned merge will be made of."""
    return tuple(
        _edited(recipe, i, adapter) if recipe.sources[i].units.scale else adapter
        for i, adapter in enumerate(sources.adapters)
    )


def _edited(recipe: Recipe, place: int, adapter: Adapter) -> Adapter:
    source = recipe.sources[place].model_copy(update={"weight": 1.0, "modules": {}})
    alone = parse({"sources": [source.model_dump()]})
    return replace(compose(alone, Sources((adapter,))).adapter, name=adapter.name)


def coefficients(
    base: TextBase,
    adapters: Sequence[Adapter],
    examples: Examples,
    request: LearnRequest,
    *,
    target: Adapter | None = None,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
) -> Learned:
    """Learn coefficients as the request says; raises what its learner raises.

    `target` is the target LoRA that the request asks for, where it is trained already.
    """
    pool = Pool(tuple(range(len(adapters))), tuple(adapters))
    if request.learner.select:
        pool = request.learner.select(base, adapters, examples, request, target=target, stop=stop)
    return resumed(base, *pool, examples, request, None, on_step=on_step, stop=stop)


def resumed(
    base: TextBase,
    places: tuple[int, ...],
    adapters: tuple[Adapter, ...],
    examples: Examples,
    request: LearnRequest,
    state: State | None,
    *,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
) -> Learned:
    """Go on from a state with adapters that are selected already; from the start where it is None.

    Raises `BadRecipe` for a learner that cannot go on.
    """
    learner = request.learner
    if state is not None and not learner.resumes:
        raise BadRecipe(f"{learner.title} cannot be resumed", "its search keeps no state", "start it again")
    found = learner.learn(base, adapters, examples, request.settings, state=state, on_step=on_step, stop=stop)
    return Learned(places, adapters, found)
