"""PEFT's own routers over the same adapters, base and data: Arrow, which needs no training, and X-LoRA, which does.

Both mix by token: Arrow by |cosine| to each adapter's top right singular vector, at every module (arXiv 2405.11157);
X-LoRA by a classifier on the base's hidden states, one decision for all modules (arXiv 2402.07148). Both take a softmax
over adapters, so their weights sum to 1; `total` raises that to what the other routers give.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.core.adapter import Adapter
from studio.core.errors import NotAtHand
from studio.core.late import peft, torch
from studio.evaluation.score import answer_logits, mistaken
from studio.formats import save_adapter
from studio.learning.data import batch_rows
from studio.learning.fit import OnProgress, Schedule, State, Stop, fit
from studio.learning.updates import view_with_updates
from studio.routing.measures import Decided, measure
from studio.routing.text import Judged, TextWorld, by_row, there

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Library:
    """A model of PEFT with a router in it; `weights()` gives those of its last pass, (modules, rows, T, n)."""

    name: str
    model: Any
    weights: Callable[[], Tensor]


@contextmanager
def saved(adapters: Sequence[Adapter]) -> Iterator[list[str]]:
    """The adapters as PEFT folders, for as long as the library needs them."""
    with TemporaryDirectory(prefix="loom-route-", ignore_cleanup_errors=True) as folder:
        places = [Path(folder) / str(i) for i in range(len(adapters))]
        for place, adapter in zip(places, adapters, strict=True):
            save_adapter(adapter, place)
        yield [str(place) for place in places]


def _view(world: TextWorld) -> Any:
    """A view of the base that PEFT may put its layers into; the weights are shared and stay frozen."""
    view = view_with_updates(world.base.model, {})
    view.config = copy.copy(view.config)
    view.config.use_cache = False
    return view


def _strengthened(adapter: Adapter, factor: float) -> Adapter:
    modules = {name: replace(m, scaling=m.scaling * factor, stored_alpha=None) for name, m in adapter.modules.items()}
    return replace(adapter, modules=modules)


# -- Arrow -------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Coefficients:
    """Arrow's coefficients of one pass, module by module: computed again from each module's input."""

    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, arrow: Any, given: tuple[Any, ...]) -> None:
        with torch.no_grad():
            similar = (given[0] @ arrow.prototypes.T).abs()
            top = similar.topk(arrow.top_k, -1)
            score = torch.full_like(similar, float("-inf")).scatter(-1, top.indices, top.values)
            self.seen.append((score / arrow.temperature).softmax(-1))

    def taken(self) -> Tensor:
        """All of them, and forget."""
        found = torch.stack(self.seen)
        self.seen.clear()
        return found


def arrow(world: TextWorld, k: int, *, total: float = 1.0, temperature: float = 1.0) -> Library:
    """PEFT's Arrow over the world's adapters, k a token. Raises `NotAtHand` where PEFT refuses them."""
    adapters = [_strengthened(adapter, total) for adapter in world.mixture.adapters]
    config = peft.ArrowConfig(top_k=k, router_temperature=temperature, rng_seed=0)
    with saved(adapters) as places:
        try:
            model = peft.create_arrow_model(_view(world), places, config)
        except ValueError as error:
            raise NotAtHand("Arrow does not take these adapters", str(error)) from error
    watch = _Coefficients()
    for module in model.modules():
        if type(module).__name__ == "ArrowLoraLinearLayer":
            module.register_forward_pre_hook(watch)
    return Library("Arrow", model.eval(), watch.taken)


# -- X-LoRA ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Scalings:
    """X-LoRA's scalings of the last pass: alike for all modules, so one decision a token."""

    model: Any

    def __call__(self) -> Tensor:
        found: Tensor = self.model.base_model.internal_xlora_scalings
        return found.detach()[:, :, 0][None]


@dataclass(frozen=True, slots=True, eq=False)
class _Loss:
    """The mean loss an item of a world under a library's model."""

    world: TextWorld
    model: Any
    train: Tensor
    valid: Tensor
    schedule: Schedule

    def __call__(self, step: int) -> Tensor:
        """Of one step's batch, with gradient."""
        rows = self.train[batch_rows(len(self.train), self.schedule.batch, step, self.schedule.seed)]
        return answered(self.world, self.model, rows)[0].mean()

    def whole(self) -> float:
        """Of the validation rows."""
        with torch.no_grad():
            parts = torch.split(self.valid, 32)
            return float(torch.cat([answered(self.world, self.model, part)[0] for part in parts]).mean())


def xlora(
    world: TextWorld,
    rows: tuple[Tensor, Tensor],
    schedule: Schedule,
    *,
    total: float = 1.0,
    on_step: OnProgress | None = None,
    stop: Stop | None = None,
) -> tuple[Library, State]:
    """Train PEFT's X-LoRA classifier (one linear layer) on the world's rows, keeping the step that validates best."""
    torch.manual_seed(schedule.seed)  # the classifier is drawn by torch's own generator
    adapters = world.mixture.adapters
    with saved(adapters) as places:
        config = peft.XLoraConfig(
            task_type="CAUSAL_LM",
            hidden_size=world.base.model.config.hidden_size,
            adapters={str(i): place for i, place in enumerate(places)},
            global_scaling_weight=total,
        )
        model = peft.get_peft_model(_view(world), config)
    tensors = list(model.base_model.internal_xlora_classifier.parameters())
    loss = _Loss(world, model, *rows, schedule)
    state = fit(tensors, loss, loss.whole, schedule, on_step=on_step, stop=stop)
    with torch.no_grad():
        for tensor, best in zip(tensors, state.best, strict=True):
            tensor.copy_(best)
    return Library("X-LoRA", model.eval(), _Scalings(model)), state


# -- both --------------------------------------------------------------------------------------------------------------


def answered(world: TextWorld, model: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean nats an answer token, and whether the whole answer is right, both (rows,), of any model."""
    part = world.table.take(rows)
    logits, targets = answer_logits(model, part)
    nats = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return by_row(part, nats, mistaken(world.base, logits, targets))


def judge_library(world: TextWorld, library: Library, rows: Tensor, *, total: float = 1.0) -> Judged:
    """Answers and measures of a library's router on some rows; a choice that it does not know gets weight 0."""
    losses, right, parts = [], [], []
    with torch.no_grad():
        for start in range(0, len(rows), 32):
            part = rows[start : start + 32]
            loss, hit = answered(world, library.model, part)
            losses.append(loss)
            right.append(hit)
            parts.append(_decided(world, library.weights() * total, part, start))
    joined = Decided(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    labels = world.labels.take(rows.tolist())
    return Judged(measure(joined, torch.cat(losses), labels), torch.cat(right).cpu().numpy())


def _decided(world: TextWorld, weights: Tensor, rows: Tensor, start: int) -> tuple[Any, Any, Any]:
    """Lines of example, weights and log q from weights (modules, rows, T, n)."""
    mask = there(world.table.take(rows)).expand(weights.shape[:-1])
    example = torch.arange(len(rows))[:, None].expand(mask.shape[1:]).expand(mask.shape)[mask.cpu()].numpy() + start
    found = weights[mask].double().cpu().numpy()
    found = np.pad(found, ((0, 0), (0, len(world.names) - found.shape[-1])))
    return example, found, np.log(np.maximum(found / found.sum(-1, keepdims=True), 1e-12))
