"""Examples to learn from: a training and a validation part, and the order in which batches are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from studio.core.errors import LoomError
from studio.core.late import torch
from studio.evaluation.tasks import Task
from studio.text.skills import Item

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 20
"""Up to so many examples serve as training and validation both: a part of them would tell nothing."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Items that coefficients are fitted to, and items that choose the step to keep."""

    train: tuple[Item, ...]
    valid: tuple[Item, ...]

    @property
    def all(self) -> tuple[Item, ...]:
        """Every distinct item."""
        return tuple(dict.fromkeys(self.train + self.valid))


def split(items: Sequence[Item], *, valid: float = 0.2, seed: int = 0) -> Examples:
    """A seeded split; few items are used for both (100 become 80 and 20, 10 stay 10 and 10)."""
    if not items:
        raise LoomError("There are no examples to learn from", next="give at least one prompt with its answer")
    if len(items) <= SMALL:
        return Examples(tuple(items), tuple(items))
    shuffled = Random(seed).sample(list(items), len(items))
    held = max(1, round(valid * len(items)))
    return Examples(tuple(shuffled[held:]), tuple(shuffled[:held]))


def unseen(test: Task, examples: Examples) -> Task:
    """The test without the examples: a figure on what was learned from would flatter.

    Raises `LoomError` where nothing is left.
    """
    seen = {item.prompt for item in examples.all}
    kept = tuple(item for item in test.items if item.prompt not in seen)
    if not kept:
        why = f"all its {len(test.items)} items were used as examples"
        raise LoomError(f"{test.name} has no item that was not learned from", why, "give another file")
    return replace(test, items=kept)


def batch_rows(count: int, size: int, step: int, seed: int) -> Tensor:
    """The rows of one step's batch, (size,): every row once an epoch, in an order that only (seed, epoch) decides.

    A function of the step alone, so that a run taken up again sees what it would have seen.
    """
    places = range(step * size, (step + 1) * size)
    orders = {epoch: _order(count, epoch, seed) for epoch in {place // count for place in places}}
    return torch.stack([orders[place // count][place % count] for place in places])


def _order(count: int, epoch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed((seed << 20) + epoch)
    return torch.randperm(count, generator=generator)
