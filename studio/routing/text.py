"""Routing on a text base: what a prompt looks like to a router, and what an answer costs under a choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np

from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe
from studio.core.late import torch
from studio.evaluation.score import Table, answer_logits, mistaken, table_of
from studio.learning.fit import Stop
from studio.routing.items import Labelled
from studio.routing.measures import Labels, Measures, measure
from studio.routing.mixing import Mixture, mix_adapters
from studio.routing.router import BASE, Granularity, Router, fresh
from studio.routing.train import Decide, OnStep, Settings, Trained, decisions, train
from studio.text.bases import TextBase

if TYPE_CHECKING:
    from torch import Tensor

Reads = Literal["embedding", "hidden", "layer"]
"""The features: the tokens' embeddings, the base's last hidden states, or the input of each decoder block."""

_REMEMBERED: Final = 1_000_000
_WHOLE: Final = 32


@dataclass(frozen=True, slots=True)
class Shape:
    """What kind of router is wanted over a text base; see `Router`. `with_base` adds the bare base as a choice."""

    k: int = 1
    omega: float = 1.0
    kind: str = "remix"
    granularity: Granularity = "sequence"
    reads: Reads = "embedding"
    with_base: bool = False
    seed: int = 0


def shape_of(router: Router) -> Shape:
    """The shape of a router that reads text."""
    about = router.k, router.omega, router.kind, router.granularity, cast("Reads", router.reads), BASE in router.names
    return Shape(*about)


@dataclass(eq=False)
class TextWorld:
    """Labelled items over a mixture of adapters; a world for `studio.routing.train`.

    With frozen adapters and one decision a prompt, the loss of an item under a selection is computed once and
    remembered: it cannot change.
    """

    base: TextBase
    mixture: Mixture
    table: Table
    labels: Labels
    names: tuple[str, ...]
    reads: Reads
    granularity: Granularity
    frozen: bool = True
    passes: int = 0
    pooled: Tensor | None = None
    _known: dict[tuple[int, bytes], tuple[float, bool]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    def losses(self, rows: Tensor, decide: Decide) -> Tensor:
        """Mean nats an answer token of each row."""
        return self.answers(rows, decide)[0]

    def answers(self, rows: Tensor, decide: Decide) -> tuple[Tensor, Tensor]:
        """Mean nats an answer token, and whether the whole answer is right, both (rows,)."""
        if self.pooled is not None:
            weights = decide(self.pooled[rows])
            is_fixed = self.frozen and not weights.requires_grad
            return self._remembered(rows, weights) if is_fixed else self._forward(rows, weights)
        part, mixing = self.table.take(rows), self.mixture.mixing
        asking = _Asking(decide, self.granularity, part)
        if self.reads == "layer":
            mixing.ask = asking
        else:
            mixing.weights[0] = asking(0, features(self.base, part.ids[:, :-1], self.reads))
        return self._read(part)

    def _forward(self, rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        self.mixture.mixing.weights[0] = weights[:, None]
        return self._read(self.table.take(rows))

    def _read(self, part: Table) -> tuple[Tensor, Tensor]:
        self.passes += len(part)
        logits, targets = answer_logits(self.mixture.view, part)
        nats = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        return by_row(part, nats, mistaken(self.base, logits, targets))

    def _remembered(self, rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The same from memory; what is new is computed first, rows of like length together."""
        keys = [(row, w.tobytes()) for row, w in zip(rows.tolist(), weights.cpu().numpy(), strict=True)]
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        new = sorted({key: place for place, key in enumerate(keys) if key not in self._known}.values())
        new.sort(key=lambda place: keys[place][0])
        with torch.no_grad():
            for part in (new[start : start + _WHOLE] for start in range(0, len(new), _WHOLE)):
                losses, right = self._forward(rows[part], weights[part])
                found = zip(losses.tolist(), right.tolist(), strict=True)
                self._known.update({keys[place]: one for place, one in zip(part, found, strict=True)})
        told = [self._known[key] for key in keys]
        device = weights.device
        return torch.tensor([t[0] for t in told], device=device), torch.tensor([t[1] for t in told], device=device)


def by_row(part: Table, nats: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    """Mean nats an answer token and whether none is wrong, both (rows,), from values by answer token."""
    owner = part.answer[:, 1:].nonzero()[:, 0]
    zero = torch.zeros(len(part), device=nats.device)
    count = zero.index_add(0, owner, torch.ones_like(nats))
    return zero.index_add(0, owner, nats) / count, zero.index_add(0, owner, wrong.float()) == 0


@dataclass(frozen=True, slots=True, eq=False)
class _Asking:
    """Turns a batch's features (rows, T, D) into weights: one decision by the mean of the prompt, or one a token."""

    decide: Decide
    granularity: Granularity
    part: Table

    def __call__(self, group: int, x: Tensor) -> Tensor:
        if self.granularity == "token":
            return self.decide(x, group, there(self.part))
        return self.decide(pool(x, self.part), group)[:, None]


def there(part: Table) -> Tensor:
    """The tokens (rows, T - 1) that a model reads: all but the padding and each row's last."""
    return part.answer[:, 1:].flip(1).cumsum(1).flip(1) > 0


def pool(x: Tensor, part: Table) -> Tensor:
    """The mean (rows, D) of the prompt's features (rows, T - 1, D)."""
    prompt = (part.answer.cumsum(1) == 0)[:, :-1].to(x.dtype)[..., None]
    return (x * prompt).sum(1) / prompt.sum(1)


def features(base: TextBase, ids: Tensor, reads: Reads) -> Tensor:
    """Features (rows, T, D), float32, of the bare base's reading of tokens (rows, T)."""
    with torch.no_grad():
        if reads == "embedding":
            return cast("Tensor", base.model.get_input_embeddings()(ids).float())
        found = base.model(input_ids=ids, use_cache=False, output_hidden_states=True, return_dict=True)
        return cast("Tensor", found.hidden_states[-1].float())


def text_world(
    base: TextBase, adapters: Sequence[Adapter], labelled: Sequence[Labelled], shape: Shape, *, frozen: bool = True
) -> TextWorld:
    """Lay the items out for routing. Raises `WrongBase`, or `LoomError` where no item fits the base."""
    mixture = mix_adapters(base.model, adapters, by_layer=shape.reads == "layer")
    table = table_of(base, [one.item for one in labelled])
    names = tuple(adapter.name for adapter in adapters) + ((BASE,) if shape.with_base else ())
    if BASE in names[: len(adapters)]:
        raise BadRecipe(f"An adapter is called {BASE}", next="rename it")
    labels = _labels([labelled[row] for row in table.rows], names)
    world = TextWorld(base, mixture, table, labels, names, shape.reads, shape.granularity, frozen)
    if shape.reads != "layer" and shape.granularity == "sequence":
        world.pooled = pooled(base, table, shape.reads)
    return world


def pooled(base: TextBase, table: Table, reads: Reads) -> Tensor:
    """The features (N, D) of each item's prompt."""
    parts = [table.take(rows) for rows in _pieces(torch.arange(len(table)))]
    return torch.cat([pool(features(base, part.ids[:, :-1], reads), part) for part in parts])


def _pieces(rows: Tensor) -> list[Tensor]:
    return [rows[start : start + _WHOLE] for start in range(0, len(rows), _WHOLE)]


def _labels(labelled: Sequence[Labelled], names: tuple[str, ...]) -> Labels:
    tasks = tuple(sorted({one.task for one in labelled}))
    truth = np.array([[name in one.adapters for name in names] for one in labelled], dtype=bool)
    return Labels(np.array([tasks.index(one.task) for one in labelled]), tasks, truth)


def split_rows(world: TextWorld, seed: int = 0, valid: float = 0.2) -> tuple[Tensor, Tensor]:
    """The rows to train on and those to choose the step by, at least one each; raises `BadRecipe` for one item."""
    if len(world) < 2:
        raise BadRecipe("One item is too few to learn routing from", next="give two or more; a hundred is better")
    order = torch.randperm(len(world), generator=torch.Generator().manual_seed(seed))
    held = max(1, round(valid * len(world)))
    return order[held:], order[:held]


def learn_router(
    world: TextWorld,
    shape: Shape,
    settings: Settings,
    *,
    resume: Trained | None = None,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
) -> Trained:
    """Train a router of this shape on the world, one item in five held back to choose the step."""
    rows = split_rows(world, settings.schedule.seed)
    adapters = () if world.frozen else world.mixture.tensors
    router = fresh_router(world, shape, rows[0])
    said: dict[str, Any] = {"labels": world.labels, "resume": resume, "on_step": on_step, "stop": stop}
    return train(world, rows, router, settings, adapters=adapters, **said)


def fresh_router(world: TextWorld, shape: Shape, rows: Tensor) -> Router:
    """An untrained router of this shape for the world; its features are scaled by these rows' prompts."""
    seen = [world.pooled[rows]] if world.pooled is not None else _seen(world, rows)
    about: dict[str, Any] = {"k": shape.k, "omega": shape.omega, "kind": shape.kind, "reads": shape.reads}
    about |= {"granularity": shape.granularity, "groups": world.mixture.groups, "base": world.base.base.id}
    return fresh(world.names, seen, seed=shape.seed, **about)


def _seen(world: TextWorld, rows: Tensor) -> list[Tensor]:
    """By group, the features (count, D) that decisions are made from, no adapter taking part."""
    watching = _Watching(len(world.names), [[] for _ in world.mixture.groups])
    with torch.no_grad():
        for part in _pieces(rows[:256]):
            world.answers(part, watching)
    return [torch.cat(parts) for parts in watching.seen]


@dataclass(frozen=True, slots=True, eq=False)
class _Watching:
    """Decides for the base alone, and keeps what it was asked."""

    n: int
    seen: list[list[Tensor]]

    def __call__(self, x: Tensor, group: int = 0, mask: Tensor | None = None) -> Tensor:
        self.seen[group].append(x if mask is None else x[mask])
        return torch.zeros((*x.shape[:-1], self.n), device=x.device)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A router's answers: its measures, and whether each item (N,), in the world's order, was answered exactly."""

    measures: Measures
    right: np.ndarray[Any, np.dtype[np.bool_]]


def judge(world: TextWorld, router: Router, rows: Tensor | None = None) -> Judged:
    """Answer items by a router's inference, exact match as in `studio.evaluation.score`."""
    rows = torch.arange(len(world)) if rows is None else rows
    reading = _Reading(world, [])
    losses, decided = decisions(reading, router, rows)
    right = torch.cat(reading.right).cpu().numpy()
    return Judged(measure(decided, losses, world.labels.take(rows.tolist())), right)


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """A world that keeps whether answers were right."""

    world: TextWorld
    right: list[Tensor]

    def __len__(self) -> int:
        return len(self.world)

    def losses(self, rows: Tensor, decide: Decide) -> Tensor:
        """The losses; what is right is kept."""
        losses, right = self.world.answers(rows, decide)
        self.right.append(right)
        return losses
