"""What a learned merge must stand beside: random LoRAs of the same scale, and a LoRA trained on the same examples.

Without them a gain may be regularisation, or what the examples alone would have taught (arXiv 2602.12323).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from studio.core.adapter import Adapter, in_memory_module
from studio.core.errors import BadRecipe
from studio.core.late import torch
from studio.learning.data import Examples
from studio.learning.fit import OnProgress, Schedule, State, Stop, fit
from studio.learning.updates import Update, answer_loss, view_with_updates
from studio.text.bases import TextBase
from studio.text.rows import stack_factors

if TYPE_CHECKING:
    from torch import Tensor


def random_like(adapters: Sequence[Adapter], seed: int) -> tuple[Adapter, ...]:
    """The adapters with both factors redrawn, N(0, std^2) of all their entries at that module (arXiv 2602.12323).

    Ranks, scalings and missing modules stay. It matches the scale of the factors, not the norm of the delta.
    """
    rng = np.random.default_rng(seed)
    drawn = [dict(adapter.modules) for adapter in adapters]
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.modules):
        pairs = [adapter.modules[name].load() for adapter in adapters if name in adapter.modules]
        stds = [float(np.concatenate([pair[side].ravel() for pair in pairs]).std()) for side in (0, 1)]
        for i, adapter in enumerate(adapters):
            if name in adapter.modules:
                like = adapter.modules[name]
                a = rng.normal(0, stds[0], (like.rank, like.d_in)).astype(np.float32)
                b = rng.normal(0, stds[1], (like.d_out, like.rank)).astype(np.float32)
                drawn[i][name] = in_memory_module(name, a, b, like.scaling, kind=like.kind, kernel=like.kernel)
    return tuple(
        replace(adapter, name=f"random {adapter.name}", modules=drawn[i], path=None)
        for i, adapter in enumerate(adapters)
    )


_SCHEDULE: Final = Schedule(rate=3e-4, steps=400)


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """A plain LoRA: rank, alpha, and a schedule; by default rate and steps of arXiv 2602.12323, at a smaller rank."""

    rank: int = 8
    alpha: float = 16.0
    schedule: Schedule = _SCHEDULE

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= 1024:
            raise BadRecipe(f"rank is {self.rank}", "it lies between 1 and 1024")


def target_lora(
    base: TextBase,
    like: Sequence[Adapter],
    examples: Examples,
    settings: TargetSettings | None = None,
    *,
    on_step: OnProgress | None = None,
    stop: Stop | None = None,
) -> Adapter:
    """Train a LoRA on the examples over the modules that `like` adapt, and keep the step that validates best.

    Starts as PEFT does: A uniform in +-1/sqrt(d_in), B zero. Plain torch; the base stays frozen.
    """
    settings = settings or TargetSettings()
    shapes = {name: adapter.modules[name].shape for adapter in like for name in adapter.modules}
    names = [name for name in shapes if next(a for a in like if name in a.modules).modules[name].kind == "linear"]
    stack_factors(base.model, like)  # refuses what does not fit
    tensors = _fresh(base, {name: shapes[name] for name in names}, settings)
    scaling, schedule = settings.alpha / settings.rank, settings.schedule
    gate = _Constant(torch.tensor(scaling, device=base.model.device))
    updates = {name: Update(down, up, gate) for name, (down, up) in zip(names, _pairs(tensors), strict=True)}
    view = view_with_updates(base.model, updates)
    loss = answer_loss(base, view, examples.train, batch=schedule.batch, seed=schedule.seed)
    valid = answer_loss(base, view, examples.valid)
    state = fit(tensors, loss, valid.whole, schedule, on_step=on_step, stop=stop)
    return _trained("target", names, state, scaling, like[0])


@dataclass(frozen=True, slots=True, eq=False)
class _Constant:
    """A gate that is one number."""

    value: Tensor

    def __call__(self) -> Tensor:
        return self.value


def _fresh(base: TextBase, shapes: dict[str, tuple[int, int]], settings: TargetSettings) -> list[Tensor]:
    """down (d_in, r) and up (r, d_out) by turns, float32."""
    generator = torch.Generator().manual_seed(settings.schedule.seed)
    found = []
    for d_out, d_in in shapes.values():
        down = (torch.rand(d_in, settings.rank, generator=generator) * 2 - 1) / d_in**0.5
        found += [down.to(base.model.device), torch.zeros(settings.rank, d_out, device=base.model.device)]
    return found


def _pairs(tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def _trained(name: str, names: Sequence[str], state: State, scaling: float, like: Adapter) -> Adapter:
    modules = {
        module: in_memory_module(module, down.T.cpu().numpy(), up.T.cpu().numpy(), scaling)
        for module, (down, up) in zip(names, _pairs(state.best), strict=True)
    }
    return Adapter(name, modules, "peft", "trained on the examples", base=like.base)
