"""The one training loop: AdamW on a few tensors over a frozen base, with validation, stop and resume."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from studio.core.errors import BadRecipe, LoomError
from studio.core.late import torch

if TYPE_CHECKING:
    from torch import Tensor

Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast: AdamW without weight decay, warm-up, then cosine to zero.

    `warm_up` is a share of the steps. Every `check_every` steps the validation loss is read; after `patience` checks
    without a better one the run ends. Raises `BadRecipe` for numbers out of bounds.
    """

    rate: float = 5e-2
    steps: int = 100
    batch: int = 8
    warm_up: float = 0.1
    check_every: int = 10
    patience: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {"rate": (1e-7, 10), "steps": (1, 100_000), "batch": (1, 4096), "warm_up": (0, 1)}
        bounds |= {"check_every": (1, 100_000), "patience": (1, 100_000), "seed": (0, 2**31)}
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise BadRecipe(f"{name} is {getattr(self, name)}", f"it lies between {low:g} and {high:g}")

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rising = round(self.warm_up * self.steps)
        if step < rising:
            return self.rate * (step + 1) / rising
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, self.steps - rising)))


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Where a run stands: copies of its tensors, its optimiser, losses by step, validation losses by (step, loss).

    `best` are the tensors with the lowest validation loss so far. Give it to the same run to go on.
    """

    step: int
    tensors: tuple[Tensor, ...]
    best: tuple[Tensor, ...]
    optimizer: dict[str, Any] = field(repr=False)
    losses: tuple[float, ...] = ()
    valid: tuple[tuple[int, float], ...] = ()

    @property
    def lowest(self) -> float:
        """The lowest validation loss."""
        return min((loss for _, loss in self.valid), default=math.inf)


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """One step of a run: steps done and in all, its loss in nats, the last validation loss.

    `tensors` are the live ones: copy what is to be kept.
    """

    step: int
    steps: int
    loss: float
    valid: float
    tensors: tuple[Tensor, ...]


OnProgress = Callable[[Progress], None]


def fit(
    tensors: Sequence[Tensor],
    loss: Callable[[int], Tensor],
    valid: Callable[[], float],
    schedule: Schedule,
    *,
    state: State | None = None,
    on_step: OnProgress | None = None,
    stop: Stop | None = None,
) -> State:
    """Train `tensors` in place from where `state` stands, until the schedule ends or `stop()` is true.

    `loss(step)` is the loss of a step's batch with the tensors as they are. Raises `LoomError` where it is not finite.
    """
    for tensor in tensors:
        tensor.requires_grad_()
    optimizer = torch.optim.AdamW(list(tensors), lr=schedule.rate, weight_decay=0.0)
    state = _resumed(tensors, optimizer, state) if state else _started(tensors, optimizer, valid)
    step, losses, checks, best = state.step, list(state.losses), list(state.valid), state.best
    while not _is_done(step, checks, schedule) and not (stop and stop()):
        losses.append(_step(optimizer, loss(step), schedule.rate_at(step)))
        step += 1
        if step % schedule.check_every == 0 or step == schedule.steps:
            found, lowest = valid(), min(loss for _, loss in checks)
            checks.append((step, found))
            best = _copies(tensors) if found < lowest else best
        if on_step:
            on_step(Progress(step, schedule.steps, losses[-1], checks[-1][1], tuple(tensors)))
    return State(step, _copies(tensors), best, _settings_of(optimizer), tuple(losses), tuple(checks))


def _is_done(step: int, checks: Sequence[tuple[int, float]], schedule: Schedule) -> bool:
    """Whether all steps are made, or patience is at its end."""
    losses = [loss for _, loss in checks]
    return step >= schedule.steps or len(losses) - 1 - losses.index(min(losses)) >= schedule.patience


def _step(optimizer: Any, loss: Tensor, rate: float) -> float:
    """One step of the optimiser at this rate; the loss it was taken from."""
    if not bool(torch.isfinite(loss)):
        raise LoomError("The loss is not a number", "a step was too large", "lower the rate")
    optimizer.param_groups[0]["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def _settings_of(optimizer: Any) -> dict[str, Any]:
    held: dict[str, Any] = copy.deepcopy(optimizer.state_dict())
    return held


def _copies(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().clone() for tensor in tensors)


def _started(tensors: Sequence[Tensor], optimizer: Any, valid: Callable[[], float]) -> State:
    """The start counts as a candidate: a run that only makes it worse gives it back."""
    held = _copies(tensors)
    return State(0, held, held, _settings_of(optimizer), (), ((0, valid()),))


def _resumed(tensors: Sequence[Tensor], optimizer: Any, state: State) -> State:
    with torch.no_grad():
        for tensor, held in zip(tensors, state.tensors, strict=True):
            tensor.copy_(held)
    optimizer.load_state_dict(copy.deepcopy(state.optimizer))
    return state
