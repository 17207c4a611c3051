"""The reference toy over frozen experts, ten seeds in one batch, under several readings of what its text leaves open.

With experts frozen, a row's error under weights w is (w - w*)' G (w - w*), G the (n, n) products of the experts'
outputs: all seeds train at once. Adam at one rate throughout, as the specification says; `studio.routing.toy` has the
same toy for the product's own training loop, whose rate falls to zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from studio.routing.ess import effective_support
from studio.routing.kinds import kind_by_id
from studio.routing.policy import CLIP, log_policy, log_probability, sample
from studio.routing.rloo import surrogate
from studio.routing.toy import CHOSEN, EXPERTS, RANK, WIDTH, make_toy

SEEDS = 10
STEPS, BATCH, RATE, TRAIN_ROWS = 3000, 128, 3e-3, 4096
ROUTERS: Mapping[str, tuple[str, int]] = {
    "dense softmax": ("softmax", 2),
    "top-k softmax": ("topk", 2),
    "ReMix M=2": ("remix", 2),
    "ReMix M=8": ("remix", 8),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """What the text leaves open: the inputs' noise, P's start, each expert's variance, what softmax weights sum to."""

    noise: float = 0.5
    start: float = 0.4
    variance: float = 0.65
    total: float = 2.0


READINGS: Mapping[str, Reading] = {
    "noise 0.5, P from N(0, 0.4²)": Reading(),
    "noise 0.5, P from N(0, 0.02²)": Reading(start=0.02),
    "noise 1, P from N(0, 0.02²)": Reading(noise=1.0, start=0.02),
    "as the second, softmax weights sum to 1, variance 0.316": Reading(start=0.02, variance=0.316, total=1.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Every seed's inputs (S, N, D), products of the experts' outputs (S, N, n, n), and right weights (S, N, n)."""

    inputs: Tensor
    products: Tensor
    truth: Tensor

    def take(self, rows: Tensor) -> Batch:
        """These rows (S, b) of each seed."""
        each = torch.arange(len(rows))[:, None]
        return Batch(self.inputs[each, rows], self.products[each, rows], self.truth[each, rows])

    def error(self, weights: Tensor) -> Tensor:
        """The mean square error (..., S, b) under weights (..., S, b, n)."""
        off = weights - self.truth
        return ((off[..., None, :] @ self.products)[..., 0, :] * off).sum(-1)


def batch_of(reading: Reading) -> Batch:
    """The toys of all seeds."""
    parts = [_toy(reading, seed) for seed in range(SEEDS)]
    return Batch(*(torch.stack(column) for column in zip(*parts, strict=True)))


def _toy(reading: Reading, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    toy = make_toy(seed, noise=reading.noise, variance=reading.variance)
    down = (toy.inputs @ toy.down).view(-1, EXPERTS, RANK)
    out = torch.einsum("bnr,nrd->bnd", down, toy.up.view(EXPERTS, RANK, WIDTH))
    return toy.inputs, out @ out.transpose(1, 2) / WIDTH, torch.from_numpy(toy.labels.truth).float()


def mixed(log_q: Tensor, kind: str, total: float) -> Tensor:
    """The weights (..., n) of inference."""
    weights = kind_by_id(kind).weights(log_q, CHOSEN)
    return weights * (total / CHOSEN) if kind == "softmax" else weights


def loss_of(part: Batch, log_q: Tensor, kind: str, samples: int, total: float, g: torch.Generator) -> Tensor:
    """What is backpropagated: summed over the seeds, so that each has its own gradient."""
    if kind_by_id(kind).trained_by != "draws":
        return part.error(mixed(log_q, kind, total)).mean(-1).sum()
    every = log_q.expand(samples, *log_q.shape)
    chosen = sample(every, CHOSEN, g)
    losses = part.error(torch.zeros_like(every).scatter(-1, chosen, 1.0))
    return surrogate(losses, log_probability(every, chosen)) * len(log_q)


def run(batch: Batch, reading: Reading, kind: str, samples: int) -> list[dict[str, float]]:
    """Train one router on every seed's toy; each one's error, ESS and share of right pairs over the test rows."""
    g = torch.Generator().manual_seed(7)
    weight = (reading.start * torch.randn(SEEDS, EXPERTS, WIDTH, generator=g)).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=RATE)
    for _ in range(STEPS):
        part = batch.take(torch.randint(TRAIN_ROWS, (SEEDS, BATCH), generator=g))
        log_q = log_policy(part.inputs @ weight.transpose(1, 2), CLIP)
        optimizer.zero_grad()
        loss_of(part, log_q, kind, samples, reading.total, g).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return judged(batch, weight, kind, reading.total)


def judged(batch: Batch, weight: Tensor, kind: str, total: float) -> list[dict[str, float]]:
    """Of the rows after those of training."""
    test = Batch(batch.inputs[:, TRAIN_ROWS:], batch.products[:, TRAIN_ROWS:], batch.truth[:, TRAIN_ROWS:])
    log_q = log_policy(test.inputs @ weight.transpose(1, 2))
    weights = mixed(log_q, kind, total)
    support = torch.from_numpy(effective_support(weights))
    found = (mixed(log_q, "remix", total) == test.truth).all(-1).float()
    columns = (value.mean(-1).tolist() for value in (test.error(weights), support, found))
    return [dict(zip(("loss", "support", "found"), row, strict=True)) for row in zip(*columns, strict=True)]


def readings() -> Iterator[tuple[str, str, list[dict[str, float]]]]:
    """Every router under every reading, as each is done: (reading, router, runs)."""
    for name, reading in READINGS.items():
        batch = batch_of(reading)
        for router, (kind, samples) in ROUTERS.items():
            yield name, router, run(batch, reading, kind, samples)
