"""LoraHub: search one weight for each adapter without gradients, on a few examples (arXiv 2307.13269).

In delta space, as cat: the official code scales A and B both, so that its coefficient is w^2 and the sign is lost.
The optimiser is the official one, nevergrad's NGOpt.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe
from studio.core.late import torch
from studio.learning.coefficients import OnStep, Settings, Soup, Step, mixture, soup
from studio.learning.data import Examples
from studio.learning.fit import Schedule, State, Stop
from studio.learning.registry import Learner
from studio.learning.updates import answer_loss
from studio.text.bases import TextBase

_SETTINGS: Final = Settings("free", "global", start=0.0, schedule=Schedule(steps=40))


@dataclass(frozen=True, slots=True)
class Search:
    """Trials in all, bounds of the weights, the L1 term on mean |w|, and the seed.

    Raises `BadRecipe` for no trials, or more than 100,000.
    """

    trials: int = 40
    bound: float = 1.5
    l1: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.trials <= 100_000:
            raise BadRecipe(f"trials is {self.trials}", "it lies between 1 and 100000")


def lorahub(
    base: TextBase,
    adapters: Sequence[Adapter],
    examples: Examples,
    search: Search | None = None,
    *,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
) -> Soup:
    """Minimise the examples' loss + l1 * mean|w| over one weight an adapter, from zero; all examples are used.

    A step is a trial, its `valid` the lowest loss so far; `stop()` true keeps the best so far. The result is a soup of
    granularity `global`.
    """
    import nevergrad

    search = search or Search()
    mix = mixture(base, adapters, _SETTINGS)
    loss = answer_loss(base, mix.view, examples.all)
    space = nevergrad.p.Array(init=np.zeros(len(adapters))).set_bounds(-search.bound, search.bound)
    space.random_state.seed(search.seed)
    losses: list[float] = []
    best, lowest = mix.theta.clone(), float("inf")
    with warnings.catch_warnings():  # its inner optimisers warn of their own settings
        warnings.simplefilter("ignore")
        optimizer = nevergrad.optimizers.NGOpt(parametrization=space, budget=search.trials, num_workers=1)
        while len(losses) < search.trials and not (stop and stop()):
            trial = optimizer.ask()
            weights = torch.tensor(trial.value, dtype=torch.float32)
            mix.theta.copy_(weights)
            losses.append(loss.whole() + search.l1 * float(weights.abs().mean()))
            optimizer.tell(trial, losses[-1])
            if losses[-1] < lowest:
                best, lowest = mix.theta.clone(), losses[-1]
            if on_step:
                step = (len(losses), search.trials, losses[-1], lowest, mix.coefficients(mix.tensors))
                on_step(Step(*step, mix.layout.rows, mix.names))
    return soup(mix, State(len(losses), (mix.theta.clone(),), (best,), {}, tuple(losses), ((len(losses), lowest),)))


def _learn(
    base: TextBase,
    adapters: Sequence[Adapter],
    examples: Examples,
    settings: Settings,
    *,
    state: State | None = None,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
) -> Soup:
    search = Search(settings.schedule.steps, seed=settings.schedule.seed)
    return lorahub(base, adapters, examples, search, on_step=on_step, stop=stop)


LEARNER: Final = Learner(
    id="lorahub",
    title="LoraHub",
    summary="One weight an adapter within ±1.5, searched without gradients.",
    source="arXiv 2307.13269",
    objective="loss of the examples, nats, + 0.05 mean |w|",
    learn=_learn,
    settings=_SETTINGS,
    uses=("steps", "seed"),
    step="trial",
    resumes=False,  # the optimiser's state cannot be kept
)
