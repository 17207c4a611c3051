"""AdaMerging: coefficients that make the merge sure of itself on unlabelled prompts (arXiv 2310.02575).

For language models: the entropy of the next-token distribution where the answer begins, the one answer position that
is known without a label. RECYCLE's own "AdaMerging" is supervised; that one is
`soup.learn` with start 1/sqrt(N).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from studio.core.adapter import Adapter
from studio.core.late import torch
from studio.evaluation.score import Table, answer_logits, table_of
from studio.learning.coefficients import OnStep, Settings, Soup, mixture, soup, tell
from studio.learning.data import Examples, batch_rows
from studio.learning.fit import OnProgress, Schedule, State, Stop, fit
from studio.learning.registry import PACE, SHAPE, Learner
from studio.text.bases import TextBase
from studio.text.skills import Item

if TYPE_CHECKING:
    from torch import Tensor

SETTINGS = Settings("free", "module", start=0.3, schedule=Schedule(rate=1e-3, steps=500, batch=16))
"""The original's: start 0.3, rate 1e-3, 500 steps of 16."""


def adamerge(
    base: TextBase,
    adapters: Sequence[Adapter],
    prompts: Sequence[str],
    settings: Settings = SETTINGS,
    *,
    state: State | None = None,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
) -> Soup:
    """Minimise the mean entropy (nats) after the prompts; no answer is seen.

    The last step counts, unless its entropy is above the first's.
    """
    mix, schedule = mixture(base, adapters, settings), settings.schedule
    # a table marks the position after each prompt; which token stands there does not matter
    table = table_of(base, [Item(prompt, " .") for prompt in prompts], closed=False)
    entropy = _Entropy(mix.view, table, schedule.batch, schedule.seed)
    said: OnProgress | None = partial(tell, mix, on_step) if on_step else None
    once = replace(schedule, check_every=schedule.steps)
    return soup(mix, fit(mix.tensors, entropy, entropy.whole, once, state=state, on_step=said, stop=stop))


@dataclass(frozen=True, slots=True, eq=False)
class _Entropy:
    """Mean entropy of the distribution after the prompts."""

    view: Any
    table: Table
    batch: int
    seed: int

    def __call__(self, step: int) -> Tensor:
        return self._mean(self.table.take(batch_rows(len(self.table), self.batch, step, self.seed)))

    def whole(self) -> float:
        """Over all prompts, without gradient."""
        with torch.no_grad():
            return float(self._mean(self.table))

    def _mean(self, table: Table) -> Tensor:
        logs = answer_logits(self.view, table)[0].float().log_softmax(-1)
        mean: Tensor = -(logs.exp() * logs).sum(-1).mean()
        return mean


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
    prompts = [item.prompt for item in examples.all]
    return adamerge(base, adapters, prompts, settings, state=state, on_step=on_step, stop=stop)


LEARNER: Final = Learner(
    id="adamerge",
    title="AdaMerging",
    summary="Coefficients that make the merge sure, no answers needed.",
    source="arXiv 2310.02575",
    objective="entropy after the prompts, nats",
    learn=_learn,
    settings=SETTINGS,
    uses=(*SHAPE, *PACE),
)
