"""Training a router over any world: one that says, for some of its examples, what a choice of adapters costs.

A kind that is trained by draws (ReMix) draws M selections of each example and learns from how their losses compare
(`studio.routing.rloo`); where the adapters are frozen, nothing is ever backpropagated through the model. The others get
the ordinary gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from studio.core.errors import BadRecipe
from studio.core.late import torch
from studio.learning.data import batch_rows
from studio.learning.fit import Progress, Schedule, State, Stop, fit
from studio.routing.measures import Decided, Labels, Measures, measure, unlabelled
from studio.routing.policy import CLIP, entropy, log_probability, sample
from studio.routing.rloo import surrogate
from studio.routing.router import Router

if TYPE_CHECKING:
    from torch import Generator, Tensor

_SCHEDULE: Final = Schedule(rate=5e-2, steps=200, batch=16, check_every=20, patience=100_000)
_WHOLE: Final = 32  # examples read at once where no gradient is needed


class Decide(Protocol):
    """What a world asks a router: the weights (rows, [T,] n) for features (rows, [T,] D), in a group of the router.

    `mask` (rows, T) marks the tokens that are really there.
    """

    def __call__(self, x: Tensor, group: int = 0, mask: Tensor | None = None) -> Tensor:
        """The mixing weights."""


class World(Protocol):
    """Examples, and what answering them costs under a router's decisions."""

    def __len__(self) -> int:
        """How many examples there are."""

    def losses(self, rows: Tensor, decide: Decide) -> Tensor:
        """The losses (rows,) of these examples, `decide` asked for each decision; a row may come several times."""


Loss = Callable[["Tensor", "Tensor"], "Tensor"]
"""(rows (r,), weights (r, [T,] n)) to losses (r,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """A world with one decision an example (or a token), from features known beforehand: (N, [T,] D)."""

    features: Tensor
    loss: Loss
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def losses(self, rows: Tensor, decide: Decide) -> Tensor:
        """Decide by the features, then ask the loss."""
        rows = rows.to(self.features.device)
        return self.loss(rows, decide(self.features[rows], 0, None if self.mask is None else self.mask[rows]))


@dataclass(frozen=True, slots=True)
class Settings:
    """How a router is trained.

    `samples` is M, the selections drawn of each example at each step; `entropy` times H(q) is taken off the loss where
    selections are drawn; `ratio` is how much faster than the adapters' the router's rate is, where those are trained
    too.
    Raises `BadRecipe` for numbers out of bounds.
    """

    samples: int = 4
    entropy: float = 1e-2
    ratio: float = 5.0
    schedule: Schedule = _SCHEDULE

    def __post_init__(self) -> None:
        bounds = {"samples": (2, 1024), "entropy": (0, 100), "ratio": (1e-3, 1e3)}
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise BadRecipe(f"{name} is {getattr(self, name)}", f"it lies between {low:g} and {high:g}")


@dataclass(eq=False)
class Pass:
    """A router's decisions during one pass of a world, kept as they are made; with a generator they are drawn.

    `log_probability` and `entropy` are sums (rows,) over an example's decisions, `decisions` their number.
    """

    router: Router
    generator: Generator | None = None
    log_probability: Tensor | float = 0.0
    entropy: Tensor | float = 0.0
    decisions: Tensor | float = 0.0
    made: list[tuple[Tensor, Tensor, Tensor | None]] = field(default_factory=list)

    def __call__(self, x: Tensor, group: int = 0, mask: Tensor | None = None) -> Tensor:
        """Decide; what a drawn decision rests on gets no gradient, so that log Q trains the router alone."""
        drawn = self.router.rule.trained_by == "draws" and self.generator is not None
        log_q = self.router.log_policy(x.detach() if drawn else x, group, CLIP if drawn else None)
        if drawn and self.generator is not None:
            chosen = sample(log_q, self.router.k, self.generator)
            self.log_probability = self.log_probability + _summed(log_probability(log_q, chosen), mask)
            weights = self.router.given(chosen)
        else:
            weights = self.router.mix(log_q)
        self.entropy = self.entropy + _summed(entropy(log_q), mask)
        self.decisions = self.decisions + _summed(torch.ones_like(log_q[..., 0]), mask)
        self.made.append((weights.detach(), log_q.detach(), mask))
        return weights

    def decided(self, first: int = 0) -> Decided:
        """The decisions, examples counted from `first`."""
        parts = [_lines(*made) for made in self.made]
        example, weights, log_q = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Decided(example + first, weights, log_q)


def _summed(value: Tensor, mask: Tensor | None) -> Tensor:
    """(rows,) from (rows, [T,]): the sum over the tokens that are there."""
    if value.ndim == 1:
        return value
    return (value if mask is None else value * mask).sum(1)


def _lines(weights: Tensor, log_q: Tensor, mask: Tensor | None) -> tuple[Any, Any, Any]:
    """Example, weights and log q of each decision, tokens that are not there left out."""
    weights = weights.expand(log_q.shape)
    there = torch.ones(log_q.shape[:-1], dtype=torch.bool, device=log_q.device) if mask is None else mask.bool()
    example = there.nonzero()[:, 0].cpu().numpy()
    return example, weights[there].double().cpu().numpy(), log_q[there].double().cpu().numpy()


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What a page shows of a step: done and in all, the training loss, and the last measures of the validation rows."""

    step: int
    steps: int
    loss: float
    measures: Measures


OnStep = Callable[[Step], None]
History = tuple[tuple[int, Measures], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A trained router: the one that validated best, the measures of every check, and where to go on from.

    `tensors` are the adapters' tensors of that step, where they were trained.
    """

    router: Router
    history: History
    state: State
    tensors: tuple[Tensor, ...] = ()


@dataclass(eq=False)
class _Run:
    """One training run: the live router over its world, and the measures so far."""

    world: World
    train: Tensor
    valid: Tensor
    router: Router
    live: Tensor
    settings: Settings
    labels: Labels
    history: list[tuple[int, Measures]]
    step: int = 0

    def now(self) -> Router:
        """The router as it is. A factor before P is a factor of its rate: Adam's steps do not see a gradient's size."""
        return replace(self.router, weight=self.live * self.settings.ratio)

    def loss(self, step: int) -> Tensor:
        """The loss of a step's batch to backpropagate; all it draws depends on seed and step alone."""
        schedule, self.step = self.settings.schedule, step + 1
        rows = self.train[batch_rows(len(self.train), schedule.batch, step, schedule.seed)]
        generator = torch.Generator().manual_seed((schedule.seed << 20) + step)
        deciding = Pass(self.now(), generator)
        if self.router.rule.trained_by != "draws":
            return self.world.losses(rows, deciding).mean()
        count = self.settings.samples
        losses = self.world.losses(rows.repeat(count), deciding).view(count, -1)
        spread = torch.as_tensor(deciding.entropy / deciding.decisions).mean()
        log_q = torch.as_tensor(deciding.log_probability).view(count, -1)
        return surrogate(losses, log_q) - self.settings.entropy * spread

    def check(self) -> float:
        """The validation loss of inference; its measures are kept."""
        found = evaluate(self.world, self.now(), self.valid, self.labels)
        if not self.history or self.history[-1][0] != self.step:
            self.history.append((self.step, found))
        return found.loss

    def tell(self, on_step: OnStep, progress: Progress) -> None:
        """Say a step."""
        on_step(Step(progress.step, progress.steps, progress.loss, self.history[-1][1]))


def evaluate(world: World, router: Router, rows: Tensor, labels: Labels | None = None) -> Measures:
    """The measures of inference over some of a world's examples; `labels` are those of the whole world."""
    losses, decided = decisions(world, router, rows)
    return measure(decided, losses, (labels or unlabelled(len(world))).take(rows.tolist()))


def decisions(world: World, router: Router, rows: Tensor) -> tuple[Tensor, Decided]:
    """The losses (rows,) of inference over some of a world's examples, and the decisions, numbered as the rows are."""
    losses, parts = [], []
    with torch.no_grad():
        for start in range(0, len(rows), _WHOLE):
            deciding = Pass(router)
            losses.append(world.losses(rows[start : start + _WHOLE], deciding))
            parts.append(deciding.decided(start))
    joined = (np.concatenate([getattr(part, name) for part in parts]) for name in ("example", "weights", "log_q"))
    return torch.cat(losses), Decided(*joined)


def train(
    world: World,
    rows: tuple[Tensor, Tensor],
    router: Router,
    settings: Settings | None = None,
    *,
    adapters: Sequence[Tensor] = (),
    labels: Labels | None = None,
    resume: Trained | None = None,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
) -> Trained:
    """Train a fresh router on a world's training rows, and keep the step that the validation rows like best.

    `rows` are (training, validation); `adapters` are tensors that the world's losses depend on and that are trained
    too. `stop()` true ends the run with what there is; `resume` takes one up. Raises `BadRecipe` for no rows, and for
    routers that have nothing to learn.
    """
    settings = settings or Settings()
    if not router.rule.learns(router.k):
        why = f"with k = {router.k} the weights of a {router.kind} router are the same whatever it reads"
        raise BadRecipe("This router has nothing to learn", why, "choose another kind, or a larger k")
    if not len(rows[0]) or not len(rows[1]):
        raise BadRecipe("There are no examples to learn routing from", next="give some with their answers")
    settings = settings if adapters else replace(settings, ratio=1.0)
    live = (router.weight / settings.ratio).detach().clone()
    history = list(resume.history) if resume else []
    run = _Run(world, *rows, router, live, settings, labels or unlabelled(len(world)), history)
    said = partial(run.tell, on_step) if on_step else None
    state = resume.state if resume else None
    state = fit([live, *adapters], run.loss, run.check, settings.schedule, state=state, on_step=said, stop=stop)
    weight, *others = state.best
    best = replace(router, weight=weight * settings.ratio)
    return Trained(best, tuple(run.history), state, tuple(others))
