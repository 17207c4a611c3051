"""LoRA Soups: learn how much of each adapter every module needs, the adapters themselves frozen (arXiv 2410.13025).

The released settings barely move theta from its random start; these defaults do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from studio.core.adapter import Adapter
from studio.learning.coefficients import Mixture, OnStep, Settings, Soup, mixture, phi, soup, tell
from studio.learning.data import Examples
from studio.learning.fit import OnProgress, State, Stop, fit
from studio.learning.registry import Learner
from studio.learning.updates import answer_loss
from studio.text.bases import TextBase

if TYPE_CHECKING:
    from torch import Tensor


def learn(
    base: TextBase,
    adapters: Sequence[Adapter],
    examples: Examples,
    settings: Settings | None = None,
    *,
    state: State | None = None,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
) -> Soup:
    """Fit coefficients to the examples' answers and keep those of the lowest validation loss.

    `stop()` true ends the run with what there is; its `state` takes it up again and gives what one run would have.
    Raises `WrongBase`, `BadRecipe`, or `LoomError` where no example fits the base.
    """
    settings = settings or Settings()
    mix, schedule = mixture(base, adapters, settings), settings.schedule
    loss = answer_loss(base, mix.view, examples.train, batch=schedule.batch, seed=schedule.seed)
    valid = answer_loss(base, mix.view, examples.valid)
    objective = partial(_regularised, loss, mix) if settings.l1 else loss
    said: OnProgress | None = partial(tell, mix, on_step) if on_step else None
    return soup(mix, fit(mix.tensors, objective, valid.whole, schedule, state=state, on_step=said, stop=stop))


def _regularised(loss: Callable[[int], Tensor], mix: Mixture, step: int) -> Tensor:
    present = mix.layout.present.to(mix.theta.device)
    found = phi(mix.theta, mix.settings.parameterisation, present, mix.affine)[present]
    return loss(step) + mix.settings.l1 * found.abs().mean()


LEARNER: Final = Learner(
    id="soup",
    title="LoRA Soups (CAT)",
    summary="Every adapter, coefficients by gradient from the plain sum.",
    source="arXiv 2410.13025",
    objective="validation loss, nats an answer token",
    learn=learn,
)
