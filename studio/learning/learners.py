"""Every way to learn coefficients behind one call, for the page and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal, get_args

from studio.composing.compose import compose
from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe
from studio.learning.adamerge import SETTINGS as UNLABELLED
from studio.learning.adamerge import adamerge
from studio.learning.controls import TargetSettings, target_lora
from studio.learning.data import Examples
from studio.learning.fit import State, Stop
from studio.learning.lorahub import Search, lorahub
from studio.learning.recycle import Recycling, Selection, select
from studio.learning.soups import OnStep, Settings, Soup, learn
from studio.recipes.recipe import Recipe, parse
from studio.recipes.sources import Sources
from studio.text.bases import TextBase

Way = Literal["soup", "recycle", "lorahub", "adamerge"]
WAYS: Final = MappingProxyType(
    {
        "soup": "LoRA Soups (CAT): every adapter, coefficients by gradient",
        "recycle": "Adaptive recycling: select some adapters, coefficients from zero",
        "lorahub": "LoraHub: one weight an adapter, searched without gradients",
        "adamerge": "AdaMerging: coefficients that make the merge sure, no answers needed",
    }
)
"""What each way is, in a line."""
assert set(WAYS) == set(get_args(Way))


@dataclass(frozen=True, slots=True)
class LearnRequest:
    """What is to be learned and how.

    `keep` and `by` say how many adapters recycling selects and by what; `target` are the settings of a target LoRA that
    is trained first and joins the pool, None for no such one. `trials` are LoraHub's. AdaMerging goes by `unlabelled`,
    the original's settings by default; the other ways by `settings`. Raises `BadRecipe` for none to keep.
    """

    way: Way = "soup"
    settings: Settings = field(default_factory=Settings)
    keep: int = 5
    by: Selection = "score"
    target: TargetSettings | None = None
    trials: int = 40
    unlabelled: Settings = UNLABELLED

    def __post_init__(self) -> None:
        """Check what a slice would take for something else."""
        if self.keep < 1:
            raise BadRecipe(f"keep is {self.keep}", "it is 1 or more")

    @property
    def seed(self) -> int:
        """The seed of all that is drawn."""
        return self.settings.schedule.seed


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
    """Learn coefficients the way that is ordered; raises what that way raises.

    `target` is the target LoRA that the request asks for, where it is trained already.
    """
    places, chosen = tuple(range(len(adapters))), tuple(adapters)
    if request.way == "lorahub":
        search = Search(request.trials, seed=request.seed)
        return Learned(places, chosen, lorahub(base, chosen, examples, search, on_step=on_step, stop=stop))
    if request.way == "recycle":
        recycling = Recycling(request.keep, request.by, request.settings, request.seed)
        if request.target and target is None:
            target = target_lora(base, chosen, examples, request.target, stop=stop)
        places = select(base, chosen, examples, recycling, target=target, stop=stop)
        chosen = tuple(adapters[place] for place in places)
        if target is not None:
            places, chosen = (-1, *places), (target, *chosen)
    return resumed(base, places, chosen, examples, request, None, on_step=on_step, stop=stop)


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
    """Go on from a state with adapters that are selected already; from the start where it is None."""
    if request.way == "lorahub":
        raise BadRecipe("LoraHub's search cannot be taken up again", "its optimiser keeps no state", "start it again")
    if request.way == "adamerge":
        prompts = [item.prompt for item in examples.all]
        found = adamerge(base, adapters, prompts, request.unlabelled, state=state, on_step=on_step, stop=stop)
    else:
        found = learn(base, adapters, examples, request.settings, state=state, on_step=on_step, stop=stop)
    return Learned(places, adapters, found)
