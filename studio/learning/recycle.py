"""Recycling LoRAs: select some of a pool, learn their coefficients on a few examples (arXiv 2602.12323).

The paper's method is the default: the adapters that answer the examples best by themselves, one leaky coefficient a
module, all starting at zero, which is the base model. What the paper found belongs beside every result: it adds little
over training one LoRA on the same examples, and random LoRAs do about as well unless a relevant one is in the pool.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe
from studio.core.late import torch
from studio.evaluation.score import Score, score
from studio.evaluation.tasks import Task
from studio.learning.coefficients import OnStep, Settings, Soup
from studio.learning.controls import target_lora
from studio.learning.data import Examples
from studio.learning.fit import Stop
from studio.learning.registry import Learner, LearnRequest, Pool, Selection
from studio.learning.soup import learn
from studio.text.bases import TextBase

if TYPE_CHECKING:
    from torch import Tensor

_SETTINGS: Final = Settings("leaky")


@dataclass(frozen=True, slots=True)
class Recycling:
    """How many adapters, by what they are chosen, and how their coefficients are learned.

    `score` is the examples' exact match of each alone; the closeness criteria compare weights with a target LoRA's.
    """

    count: int = 5
    by: Selection = "score"
    settings: Settings = _SETTINGS
    seed: int = 0


def select(
    base: TextBase,
    pool: Sequence[Adapter],
    examples: Examples,
    recycling: Recycling,
    *,
    target: Adapter | None = None,
    stop: Stop | None = None,
) -> tuple[int, ...]:
    """The places in the pool of the chosen adapters, best first; ties go to the earlier.

    Raises `BadRecipe` where a closeness is asked for without a target to be close to.
    """
    places = range(len(pool))
    if recycling.by == "random":
        return tuple(Random(recycling.seed).sample(places, min(recycling.count, len(pool))))
    if recycling.by == "rank":
        merits: list[Any] = [adapter.rank for adapter in pool]
    elif recycling.by == "score":
        merits = [_merit(found) for found in score(base, Task("examples", examples.all), list(pool), stop=stop)]
    elif target is None:
        raise BadRecipe(f"{recycling.by} needs a target LoRA", next="train one on the examples, or select by score")
    else:
        merits = [closeness(target, adapter, recycling.by) for adapter in pool]
    return tuple(sorted(places, key=merits.__getitem__, reverse=True)[: recycling.count])


def _merit(found: Score) -> tuple[float, float]:
    """Exact match first; where that says nothing, the loss does."""
    return found.figure, -found.loss


def _absolute(product: Tensor) -> Tensor:
    return product.abs()


def _clamp(product: Tensor) -> Tensor:
    return product.clamp_min(0)


def _square(product: Tensor) -> Tensor:
    return product.square()


def _same(product: Tensor) -> Tensor:
    return product


_OF_PRODUCT: Final[MappingProxyType[str, Callable[[Tensor], Tensor]]] = MappingProxyType(
    {"cosine": _same, "absolute": _absolute, "clamp": _clamp, "quasi_fim": _square}
)


def closeness(target: Adapter, adapter: Adapter, by: Selection) -> float:
    """How close two adapters' deltas are, larger is closer; sums run over all modules.

    `cosine`; `absolute` and `clamp` take |xy| or max(xy, 0) of the elementwise products first; `quasi_fim` is the root
    of the cosine of squared deltas; `distance` is minus the L2 distance. One module's dense deltas at a time.
    """
    of = _OF_PRODUCT.get(by, _same)
    power = 4 if by == "quasi_fim" else 2
    sums = torch.zeros(4, dtype=torch.float64)
    for name in dict.fromkeys([*target.modules, *adapter.modules]):
        x, y = _delta(target, name, adapter), _delta(adapter, name, target)
        sums += torch.stack([of(x * y).sum(), x.pow(power).sum(), y.pow(power).sum(), (x - y).square().sum()])
    dot, own, other, gap = sums.tolist()
    if by == "distance":
        return -math.sqrt(gap)
    cosine: float = dot / max(math.sqrt(own * other), 1e-300)
    return math.sqrt(cosine) if by == "quasi_fim" else cosine


def _delta(adapter: Adapter, name: str, other: Adapter) -> Tensor:
    """The dense delta in float64; zero where only the other adapts the module."""
    if name in adapter.modules:
        return torch.from_numpy(adapter.delta(name)).double()
    return torch.zeros(other.modules[name].shape, dtype=torch.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Recycled:
    """The chosen adapters, by place in the pool, and the soup learned of them; a target stands first, place -1."""

    chosen: tuple[int, ...]
    adapters: tuple[Adapter, ...]
    soup: Soup


def recycle(
    base: TextBase,
    pool: Sequence[Adapter],
    examples: Examples,
    recycling: Recycling | None = None,
    *,
    target: Adapter | None = None,
    with_target: bool = True,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
) -> Recycled:
    """Select from the pool, then learn coefficients; a target LoRA, if given and wanted, joins the chosen as first."""
    recycling = recycling or Recycling()
    chosen = select(base, pool, examples, recycling, target=target, stop=stop)
    adapters = [pool[place] for place in chosen]
    if target is not None and with_target:
        chosen, adapters = (-1, *chosen), [target, *adapters]
    found = learn(base, adapters, examples, recycling.settings, on_step=on_step, stop=stop)
    return Recycled(chosen, tuple(adapters), found)


def _select(
    base: TextBase,
    adapters: Sequence[Adapter],
    examples: Examples,
    request: LearnRequest,
    *,
    target: Adapter | None = None,
    stop: Stop | None = None,
) -> Pool:
    """Those that the request selects; its target LoRA is trained first, and joins them."""
    if request.target and target is None:
        target = target_lora(base, adapters, examples, request.target, stop=stop)
    recycling = Recycling(request.keep, request.by, seed=request.seed)
    places = select(base, adapters, examples, recycling, target=target, stop=stop)
    chosen = tuple(adapters[place] for place in places)
    return Pool(places, chosen) if target is None else Pool((-1, *places), (target, *chosen))


LEARNER: Final = Learner(
    id="recycle",
    title="Adaptive recycling",
    summary="Some adapters are selected, their coefficients start at zero.",
    source="arXiv 2602.12323",
    objective="validation loss, nats an answer token",
    learn=learn,
    settings=_SETTINGS,
    select=_select,
)
