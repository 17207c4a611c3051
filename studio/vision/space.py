"""The space of edits: what a person does to a mix of basis adapters, as pure functions on (layers, N) tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio.core.late import torch
from studio.vision.world import Task, draw

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """An analogy whose answer is known: pictures (3, side, side) in [0, 1]."""

    task: Task
    a: Tensor
    a2: Tensor
    b: Tensor
    truth: Tensor


def ready(task: Task, seed: int = 0) -> Ready:
    """Draw an analogy of the world: one setting of a transform done to two independent scenes."""
    batch = draw(task, 1, 2, torch.Generator().manual_seed(seed))
    before, after = batch.before[0], batch.after[0]
    return Ready(task, before[0], after[0], before[1], after[1])


def gained(mix: Tensor, gains: Sequence[float], *, renormalise: bool = False) -> Tensor:
    """Each adapter's share times its gain, in every layer; 1 leaves it, 0 mutes it; missing gains are 1.

    With `renormalise` each layer's shares sum to what they summed before, unless nothing is left.
    """
    size = mix.shape[-1]
    padded = [*gains, *[1.0] * size][:size]
    scaled = mix * torch.tensor(padded, dtype=mix.dtype)
    if not renormalise:
        return scaled
    before, after = mix.sum(-1, keepdim=True), scaled.sum(-1, keepdim=True)
    return torch.where(after.abs() > 1e-9, scaled * before / after.clamp_min(1e-9), scaled)


def between(first: Tensor, second: Tensor, t: float) -> Tensor:
    """The mix a part t of the way from the first to the second."""
    return (1 - t) * first + t * second
