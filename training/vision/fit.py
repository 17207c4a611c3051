"""One optimisation loop for all stages: a budget of seconds, a cosine over them, averaged weights at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

WARM_STEPS = 5  # compile and allocate before the clock starts


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Parameters with their peak learning rate and weight decay."""

    parameters: Sequence[nn.Parameter]
    rate: float
    decay: float = 0.0

    @staticmethod
    def of(parameters: Iterable[nn.Parameter], rate: float, decay: float = 0.0) -> Group:
        """Take any iterable: a generator would be empty by the time the optimiser reads it."""
        return Group(list(parameters), rate, decay)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a fit did: steps and seconds on the clock, last loss, parameters trained, and the curve (step, loss)."""

    steps: int
    seconds: float
    loss: float
    trainable: int
    curve: list[tuple[int, float]] = field(default_factory=list)


class WeightAverage:
    """Exponential moving average of parameters, quick at first."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay, self.updates = parameters, decay, 0
        self.averages = [p.detach().clone() for p in parameters]

    def update(self) -> None:
        """Take in the current values."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)

    def install(self) -> None:
        """Write the averages into the parameters."""
        with torch.no_grad():
            torch._foreach_copy_(list(self.parameters), self.averages)


def fit(
    name: str,
    groups: Sequence[Group],
    loss_at: Callable[[float, int], Tensor],
    seconds: float,
    max_steps: int | None = None,
    decay: float = 0.999,
) -> Fitted:
    """Minimise `loss_at(progress, step)` with AdamW for `seconds` on the clock or `max_steps`; install the average.

    Raises FloatingPointError when the loss is no longer finite, and RuntimeError when a group receives no gradient:
    a parameter that silently never trains is the worst failure of all.
    """
    device = groups[0].parameters[0].device
    cuda = device.type == "cuda"
    optimiser = torch.optim.AdamW(
        [dict(params=g.parameters, lr=0.0, weight_decay=g.decay) for g in groups], betas=(0.9, 0.98), fused=cuda
    )
    everything = [p for g in groups for p in g.parameters]
    average = WeightAverage(everything, decay)
    curve: list[tuple[int, float]] = []
    started, step, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < seconds and (max_steps is None or step < max_steps):
        progress = elapsed / seconds if max_steps is None else step / max_steps
        for group, chosen in zip(optimiser.param_groups, groups, strict=True):
            group["lr"] = chosen.rate * schedule(progress)
        loss = loss_at(progress, step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            _check_gradients(groups)
        torch.nn.utils.clip_grad_norm_(everything, 1.0)
        optimiser.step()
        average.update()
        step += 1
        if step == WARM_STEPS or step % 25 == 0:
            _wait(cuda)
        if step == WARM_STEPS:
            print(f"{name}: first {WARM_STEPS} steps {time.perf_counter() - started:.1f} s", flush=True)
            started = time.perf_counter()
        elapsed = time.perf_counter() - started if step >= WARM_STEPS else 0.0
        if step % 250 == 0:
            curve.append((step, _finite(loss, name)))
            print(f"{name}: step {step} loss {curve[-1][1]:.4f} {step / max(elapsed, 1e-9):.1f} it/s", flush=True)
    _wait(cuda)
    average.install()
    fitted = Fitted(step, elapsed, _finite(loss, name), sum(p.numel() for p in everything), curve)
    print(f"{name}: {fitted.steps} steps in {fitted.seconds:.1f} s, loss {fitted.loss:.4f}", flush=True)
    return fitted


def schedule(progress: float, warm: float = 0.03, floor: float = 0.02) -> float:
    """Factor on the learning rate: a short linear warm-up, then a cosine down to `floor`."""
    if progress < warm:
        return 0.02 + 0.98 * progress / warm
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))


def _check_gradients(groups: Sequence[Group]) -> None:
    for index, group in enumerate(groups):
        if not group.parameters or all(p.grad is None for p in group.parameters):
            raise RuntimeError(f"parameter group {index} receives no gradient")


def _finite(loss: Tensor, name: str) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(f"{name}: the loss is {value}")
    return value


def _wait(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()
