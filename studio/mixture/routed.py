"""A learned router in the rule's place: ReMix with k = 1 over base alone, vision and speech (arXiv 2603.10160).

It never hears of modes: it reads the mean of what the decoder is given, tokens of pictures and sounds among the words,
and learns from the losses of the right answers alone. Whether it finds the rule again is the question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from studio.core.late import torch
from studio.mixture.model import ADAPTERS, Mixture
from studio.mixture.world import Example
from studio.routing.modality import MODES
from studio.routing.policy import best
from studio.routing.router import BASE, Router, fresh
from studio.routing.train import Features, Settings, Trained, train

CHOICES = (BASE, *ADAPTERS)
_BATCH = 50

Chunk = Callable[[Sequence[Example]], "torch.Tensor"]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a router may know of N examples: features (N, width), and the loss under each choice (N, choices)."""

    features: torch.Tensor
    losses: torch.Tensor

    @classmethod
    def of(cls, mixture: Mixture, examples: Sequence[Example]) -> Seen:
        """Read the examples under every choice, mode by mode."""
        adapters = (None, *ADAPTERS)
        columns = [by_mode(examples, lambda some, a=a: mixture.losses(some, a)) for a in adapters]  # type: ignore[misc]
        return cls(by_mode(examples, mixture.features), torch.stack(columns, 1))

    def world(self) -> Features:
        """The world that `studio.routing.train` asks."""
        return Features(self.features, lambda rows, weights: (weights * self.losses[rows]).sum(-1))


def train_router(seen: Seen, rows: tuple[torch.Tensor, torch.Tensor], settings: Settings) -> Trained:
    """A router from (training, validation) rows; the seed is the schedule's."""
    router = fresh(CHOICES, [seen.features[rows[0]]], k=1, seed=settings.schedule.seed, reads="mixture")
    return train(seen.world(), rows, router, settings)


def chosen(router: Router, features: torch.Tensor) -> list[str | None]:
    """The adapter that the router picks for each example (n, width), None for the base alone."""
    picked = best(router.log_policy(features), 1)[:, 0].tolist()
    return [None if CHOICES[index] == BASE else CHOICES[index] for index in picked]


def by_mode(examples: Sequence[Example], read: Chunk) -> torch.Tensor:
    """What `read` gives for examples of any modes, (n, ...), asked for a few of one mode at a time."""
    parts: dict[int, torch.Tensor] = {}
    for mode in MODES:
        rows = [row for row, example in enumerate(examples) if example.inputs.mode == mode]
        for start in range(0, len(rows), _BATCH):
            some = rows[start : start + _BATCH]
            parts |= dict(zip(some, read([examples[row] for row in some]), strict=True))
    return torch.stack([parts[row] for row in range(len(examples))])
