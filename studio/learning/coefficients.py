"""Coefficients of frozen adapters: which units share one, how it comes from what is trained, and what was learned.

dW_p = sum_i c_{p,i} s_i B_i A_i with c = phi(theta) and only theta trained (arXiv 2410.13025). The result is written
into the recipe as per-module weights of `cat`, so the ordinary exact export is the forward that was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe
from studio.core.late import torch
from studio.learning.fit import Progress, Schedule, State
from studio.learning.updates import Stacked, Update, stack_adapters, view_with_updates
from studio.recipes.recipe import Recipe, parse
from studio.text.bases import TextBase

if TYPE_CHECKING:
    from torch import Tensor

Parameterisation = Literal["free", "softmax", "leaky", "squared", "sigmoid", "affine"]
Init = Literal["constant", "normal", "uniform", "equal", "target"]
Granularity = Literal["global", "layer", "sublayer", "module", "rank"]
Coefficients = np.ndarray[Any, np.dtype[np.float32]]

SLOPE: Final = 0.01
"""Of the leaky parameterisation below zero: what hurts is damped a hundredfold (arXiv 2602.12323)."""
_SCHEDULE: Final = Schedule()
_STARTS: Final[Mapping[str, float]] = MappingProxyType({"free": 1.0, "squared": 1.0})


@dataclass(frozen=True, slots=True)
class Settings:
    """What is learned and how.

    By `init`, theta at step 0 is `constant`: `start`, of which None is 1 for `free` and `squared` (the plain sum), 0
    for the others (for `softmax` the mean, for `leaky` the base model); `normal`: N(0, 0.5^2); `uniform`: U(0, 1);
    `equal`: 1/sqrt(N), 1/N for `squared`; `target`: `start` (1) for the first adapter, 0 for the
    others. `l1` times the mean |c| is added to the loss. Raises `BadRecipe` for a softmax by rank, which has nothing to
    share among, and for numbers out of bounds.
    """

    parameterisation: Parameterisation = "free"
    granularity: Granularity = "module"
    start: float | None = None
    init: Init = "constant"
    l1: float = 0.0
    schedule: Schedule = _SCHEDULE

    def __post_init__(self) -> None:
        if self.parameterisation == "softmax" and self.granularity == "rank":
            raise BadRecipe("softmax cannot be learned by rank", "units of several adapters do not correspond")
        if not 0 <= self.l1 <= 1e3:
            raise BadRecipe(f"l1 is {self.l1}", "it lies between 0 and 1000")
        if self.start is not None and not abs(self.start) <= 100:
            raise BadRecipe(f"start is {self.start}", "it lies between -100 and 100")

    @property
    def theta(self) -> float:
        """Theta at step 0."""
        return _STARTS.get(self.parameterisation, 0.0) if self.start is None else self.start

    def first(self, rows: int, count: int) -> Tensor:
        """Theta (rows, N) at step 0, float32; what is drawn is drawn by the schedule's seed."""
        draw = torch.Generator().manual_seed(self.schedule.seed)
        if self.init == "normal":
            return 0.5 * torch.randn(rows, count, generator=draw)
        if self.init == "uniform":
            return torch.rand(rows, count, generator=draw)
        if self.init == "equal":
            return torch.full((rows, count), 1 / count if self.parameterisation == "squared" else count**-0.5)
        if self.init == "target":
            return torch.tensor([1.0 if self.start is None else self.start] + [0.0] * (count - 1)).repeat(rows, 1)
        return torch.full((rows, count), self.theta, dtype=torch.float32)


def phi(theta: Tensor, parameterisation: Parameterisation, present: Tensor, affine: Tensor | None = None) -> Tensor:
    """Coefficients (rows, N) from theta (rows, N), float32; a softmax shares 1 among the adapters that are `present`.

    `affine` is a and b (2,) of a sigmoid(theta) + b, learned with theta.
    """
    if affine is not None:
        return affine[0] * theta.sigmoid() + affine[1]
    if parameterisation == "softmax":
        return theta.masked_fill(~present, float("-inf")).softmax(1)
    if parameterisation == "leaky":
        return torch.nn.functional.leaky_relu(theta, SLOPE)
    if parameterisation == "squared":
        return theta.square()
    return theta.sigmoid() if parameterisation == "sigmoid" else theta


# -- which coefficient belongs to which unit ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Theta's shape (rows, N), and for each module the place of each of its units' coefficient in theta, flattened.

    `rows` are names for a heat map; `present` (rows, N) marks the cells that anything depends on.
    """

    rows: tuple[str, ...]
    places: Mapping[str, Tensor]
    present: Tensor


def group_of(module: str, granularity: Granularity) -> str:
    """The row of a module: all, its layer, its layer's attention or MLP, or itself."""
    if granularity in ("module", "rank"):
        return module
    if granularity == "global":
        return "all"
    parts = module.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if number is None:
        return module  # outside the layers: an embedding, a head
    return ".".join(parts[: number + 1] if granularity == "layer" else parts[: max(number + 2, len(parts) - 1)])


def layout_of(stacks: Mapping[str, Stacked], granularity: Granularity) -> Layout:
    """Where each unit's coefficient lies; by rank, every unit t of a module has a row of its own."""
    names = [_rows_of(module, stacked, granularity) for module, stacked in stacks.items()]
    rows = tuple(dict.fromkeys(name for group in names for name in group))
    place = {name: i for i, name in enumerate(rows)}
    count = len(next(iter(stacks.values())).ranks)
    present = torch.zeros(len(rows), count, dtype=torch.bool)
    places = {}
    for group, (module, stacked) in zip(names, stacks.items(), strict=True):
        cells = [(place[group[t % len(group)]], i) for i, rank in enumerate(stacked.ranks) for t in range(rank)]
        for row, column in cells:
            present[row, column] = True
        places[module] = torch.tensor([row * count + column for row, column in cells], device=stacked.down.device)
    return Layout(rows, places, present)


def _rows_of(module: str, stacked: Stacked, granularity: Granularity) -> tuple[str, ...]:
    if granularity == "rank":
        return tuple(f"{module}[{t}]" for t in range(max(stacked.ranks)))
    return (group_of(module, granularity),)


@dataclass(frozen=True, slots=True, eq=False)
class _Gate:
    """The gate of one module: its units' coefficients, from theta as it is now."""

    theta: Tensor
    places: Tensor
    shape: Callable[[Tensor], Tensor]

    def __call__(self) -> Tensor:
        return self.shape(self.theta).flatten()[self.places]


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Frozen adapters over a base with one theta: `view` is the forward that theta decides."""

    names: tuple[str, ...]
    ranks: Mapping[str, tuple[int, ...]]
    layout: Layout
    settings: Settings
    theta: Tensor
    affine: Tensor | None
    view: Any

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What is trained."""
        return (self.theta,) if self.affine is None else (self.theta, self.affine)

    def shaped(self, tensors: Sequence[Tensor]) -> Tensor:
        """phi of copies of the tensors, (rows, N), on the CPU."""
        theta, *affine = (tensor.detach().cpu() for tensor in tensors)
        return phi(theta, self.settings.parameterisation, self.layout.present, *affine)

    def coefficients(self, tensors: Sequence[Tensor]) -> Coefficients:
        """The same; cells that nothing depends on are NaN."""
        return self.shaped(tensors).masked_fill(~self.layout.present, float("nan")).numpy()


def mixture(base: TextBase, adapters: Sequence[Adapter], settings: Settings) -> Mixture:
    """Stack adapters over a base with theta at its start; raises `WrongBase` where one does not fit."""
    if not adapters:
        raise BadRecipe("There is nothing to learn", "no adapter was given", "give at least one")
    stacks = stack_adapters(base.model, adapters)
    layout = layout_of(stacks, settings.granularity)
    device = base.model.device
    theta = settings.first(*layout.present.shape).to(device)
    affine = torch.tensor([1.0, 0.0], device=device) if settings.parameterisation == "affine" else None
    present = layout.present.to(device)
    shape = partial(phi, parameterisation=settings.parameterisation, present=present, affine=affine)
    updates = {
        name: Update(stacked.down, stacked.up, _Gate(theta, layout.places[name], shape))
        for name, stacked in stacks.items()
    }
    ranks = {name: stacked.ranks for name, stacked in stacks.items()}
    names = tuple(adapter.name for adapter in adapters)
    return Mixture(names, ranks, layout, settings, theta, affine, view_with_updates(base.model, updates))


# -- what was learned --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What a page shows of a step: done and in all, loss, the last validation loss, the heat map (rows, N)."""

    step: int
    steps: int
    loss: float
    valid: float
    coefficients: Coefficients
    rows: tuple[str, ...]
    names: tuple[str, ...]


OnStep = Callable[[Step], None]


@dataclass(frozen=True, slots=True, eq=False)
class Soup:
    """Learned coefficients: `coefficients` (rows, N) of the best step, and `state` to go on from.

    `rows` name a heat map's rows; `units` gives the coefficient of each unit by module, adapters side by side.
    """

    names: tuple[str, ...]
    rows: tuple[str, ...]
    coefficients: Coefficients
    units: Mapping[str, Coefficients]
    ranks: Mapping[str, tuple[int, ...]]
    settings: Settings
    state: State

    def into(self, recipe: Recipe) -> Recipe:
        """The recipe with these coefficients, its sources being the adapters in order: an ordinary `cat`.

        By rank the coefficients become edits of raw units. Raises `BadRecipe` where the recipe has other sources, or,
        by rank, edits of its own.
        """
        if len(recipe.sources) != len(self.names):
            raise BadRecipe(f"The recipe has {len(recipe.sources)} sources", f"{len(self.names)} were learned")
        by_rank = self.settings.granularity == "rank"
        sources = [source.model_dump() for source in recipe.sources]
        for i, source in enumerate(sources):
            if by_rank and source["units"]["scale"]:
                raise BadRecipe(f"{self.names[i]} has edited units", "they would be lost", "clear the edits first")
            source |= {"weight": 1.0, "modules": {}} if by_rank else self._weights(i)
            if by_rank:
                source["units"] = {"form": "raw", "scale": {m: dict(enumerate(u)) for m, u in self._scales(i).items()}}
        return parse({**recipe.model_dump(), "method": "cat", "knobs": {}, "scale": 1.0, "sources": sources})

    def _scales(self, i: int) -> dict[str, list[float]]:
        """By module, the coefficients of adapter i's own units."""
        found = {}
        for module, ranks in self.ranks.items():
            if ranks[i]:
                start = sum(ranks[:i])
                found[module] = [float(c) for c in self.units[module][start : start + ranks[i]]]
        return found

    def _weights(self, i: int) -> dict[str, Any]:
        """Adapter i's weight by module; where all are one number, it is the source's own.

        Beside others the source's weight is only their mean, for the eye: every module has one that counts.
        """
        modules = {module: own[0] for module, own in self._scales(i).items()}
        values = set(modules.values())
        if len(values) == 1:
            return {"weight": values.pop(), "modules": {}}
        return {"weight": round(sum(modules.values()) / max(1, len(modules)), 4), "modules": modules}


def soup(mix: Mixture, state: State) -> Soup:
    """The result of a run over a mixture."""
    cells = mix.shaped(state.best).flatten()
    units = {module: cells[places.cpu()].numpy() for module, places in mix.layout.places.items()}
    return Soup(mix.names, mix.layout.rows, mix.coefficients(state.best), units, mix.ranks, mix.settings, state)


def tell(mix: Mixture, on_step: OnStep, progress: Progress) -> None:
    """Say a step of a run over a mixture in its coefficients."""
    coefficients = mix.coefficients(progress.tensors)
    found = (progress.step, progress.steps, progress.loss, progress.valid, coefficients)
    on_step(Step(*found, mix.layout.rows, mix.names))
