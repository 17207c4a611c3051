"""The reference toy of routing: 8 experts, 6 clusters of inputs, each answered by the sum of two of the experts.

D = 32, n = 8, r = 4, k = 2; experts frozen, or drawn anew and trained with the router. What arXiv 2603.10160 leaves
open is chosen here: inputs are a cluster's centre and noise, experts scaled to outputs of a given variance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np

from studio.core.late import torch
from studio.learning.fit import Schedule
from studio.routing.measures import Labels, Measures
from studio.routing.router import Router, fresh
from studio.routing.train import Features, Settings, Trained, evaluate, train

if TYPE_CHECKING:
    from torch import Tensor

WIDTH: Final = 32
EXPERTS: Final = 8
RANK: Final = 4
CHOSEN: Final = 2
CLUSTERS: Final = 6
_ROWS: Final = 4096
_TEST: Final = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Toy:
    """Inputs (N, D), their targets and clusters, the two right experts of each cluster, and the true experts."""

    inputs: Tensor
    targets: Tensor
    cluster: Tensor
    pairs: Tensor
    down: Tensor
    up: Tensor

    @property
    def labels(self) -> Labels:
        """Clusters are the tasks; the truth is each cluster's pair."""
        truth = torch.zeros(CLUSTERS, EXPERTS, dtype=torch.bool).scatter(1, self.pairs, True)
        names = tuple(f"cluster {i + 1}" for i in range(CLUSTERS))
        return Labels(self.cluster.numpy().astype(np.int64), names, truth[self.cluster].numpy())


@dataclass(frozen=True, slots=True, eq=False)
class _Error:
    """The mean square error of each row: sum_i w_i B_i A_i x against the target."""

    toy: Toy
    down: Tensor
    up: Tensor

    def __call__(self, rows: Tensor, weights: Tensor) -> Tensor:
        return (mixed(self.toy.inputs[rows], weights, self.down, self.up) - self.toy.targets[rows]).square().mean(-1)


def mixed(x: Tensor, weights: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """sum_i w_i B_i A_i x (rows, D): down (D, n r), up (n r, D), weights (rows, n)."""
    return ((x @ down) * weights.repeat_interleave(RANK, -1)) @ up


def make_toy(seed: int = 0, *, noise: float = 0.5, spread: float = 1.0, variance: float = 0.65) -> Toy:
    """Draw one: centres N(0, spread^2), noise N(0, noise^2), each expert's outputs of this mean square."""
    g = torch.Generator().manual_seed(seed)
    every = torch.tensor(list(combinations(range(EXPERTS), CHOSEN)))
    pairs = every[torch.randperm(len(every), generator=g)[:CLUSTERS]]
    centres = spread * torch.randn(CLUSTERS, WIDTH, generator=g)
    cluster = torch.randint(CLUSTERS, (_ROWS + _TEST,), generator=g)
    inputs = centres[cluster] + noise * torch.randn(len(cluster), WIDTH, generator=g)
    down, up = _drawn(g)
    for i in range(EXPERTS):
        own = slice(i * RANK, (i + 1) * RANK)
        up[own] *= (variance / (inputs @ down[:, own] @ up[own]).square().mean()).sqrt()
    right = torch.zeros(CLUSTERS, EXPERTS).scatter(1, pairs, 1.0)[cluster]
    return Toy(inputs, mixed(inputs, right, down, up), cluster, pairs, down, up)


def _drawn(g: torch.Generator) -> tuple[Tensor, Tensor]:
    down = torch.randn(WIDTH, EXPERTS * RANK, generator=g) / WIDTH**0.5
    return down, torch.randn(EXPERTS * RANK, WIDTH, generator=g) / RANK**0.5


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A run on the toy: the test rows' measures (loss is the mean square error), and the run."""

    test: Measures
    trained: Trained


def run_toy(
    toy: Toy,
    kind: str,
    *,
    samples: int = 2,
    frozen: bool = True,
    steps: int = 3000,
    rate: float = 3e-3,
    start: float = 0.4,
    seed: int = 0,
) -> Result:
    """Train one router on the toy: Adam, batch 128, the paper's P x without centring, P ~ N(0, start^2)."""
    g = torch.Generator().manual_seed(1000 + seed)
    down, up = (toy.down, toy.up) if frozen else _drawn(g)
    world = Features(toy.inputs, _Error(toy, down, up))
    router = plain(
        fresh([f"expert {i + 1}" for i in range(EXPERTS)], [toy.inputs], k=CHOSEN, kind=kind, seed=seed, start=start)
    )
    schedule = Schedule(rate, steps, 128, warm_up=0.0, check_every=max(1, steps // 10), patience=100_000, seed=seed)
    settings = Settings(samples, entropy=0.0, ratio=1.0, schedule=schedule)
    rows = torch.arange(_ROWS), torch.arange(_ROWS, _ROWS + 256)
    adapters = () if frozen else (down, up)
    trained = train(world, rows, router, settings, adapters=adapters, labels=toy.labels)
    last = replace(router, weight=trained.state.tensors[0])  # the last step, as the reference has it
    return Result(evaluate(world, last, torch.arange(_ROWS, _ROWS + _TEST), toy.labels), trained)


def plain(router: Router) -> Router:
    """The router on raw features: scores P x."""
    return replace(router, center=torch.zeros_like(router.center), scale=torch.ones_like(router.scale))
