"""Scores: what the base, each adapter and each merge answer rightly, all of them by one batch over one base.

Exact match is teacher-forced: an item counts when the arg max is right at every token of the answer and is an end token
after it, which is what greedy decoding would have written. A model that would have spelled the same text with other
tokens gets no point; the figures err on the low side there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.core.adapter import Adapter
from studio.core.errors import Cancelled, LoomError
from studio.core.late import torch
from studio.evaluation.intervals import Interval, Values, ratio_interval, share_interval
from studio.evaluation.tasks import Kind, Task
from studio.text.bases import TextBase
from studio.text.reading import accepts
from studio.text.rows import Block, stack_factors, view_with_rows
from studio.text.skills import Item

if TYPE_CHECKING:
    from torch import Tensor

OnStep = Callable[[int, int, str], None]
Variant = Adapter | None
"""What is scored: an adapter over the base, or the base alone."""

_MAX_LOGITS = 1 << 25  # float32 logits of one batch: 128 MiB
_MAX_TOKENS = 1 << 11  # tokens of one batch: what stays in a processor's cache is a third faster


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Items as padded rows of tokens (n, T); `answer` (n, T) marks the tokens that count, an end token included.

    `left_out` are items that do not fit the base's context; `rows` are the items' places in what was given.
    """

    ids: Tensor
    answer: Tensor
    rows: tuple[int, ...]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Tensor) -> Table:
        """Some of the rows, cut to the longest of them."""
        answer = self.answer[rows]
        width = int(answer.any(0).nonzero().max()) + 1
        return Table(self.ids[rows, :width], answer[:, :width], tuple(self.rows[row] for row in rows.tolist()))


def table_of(base: TextBase, items: Sequence[Item], *, closed: bool = True) -> Table:
    """Encode items for a base, sorted by length; `closed` adds the end token to each answer.

    An open answer, a text, that is too long is cut; a closed one is left out. Raises `LoomError` where nothing is left
    or the base has no end token.
    """
    if closed and not base.end_tokens:
        raise LoomError(f"{base.base.title} has no end token", "the end of an answer cannot be scored")
    end = [min(base.end_tokens)] if closed else []
    coded = [_coded(base, item, end) for item in items]
    found = [(row, p, a if closed else a[: base.context - len(p)]) for row, (p, a) in enumerate(coded)]
    kept = [(row, p, a) for row, p, a in found if a and len(p) + len(a) <= base.context]
    if not kept:
        raise LoomError("No item can be asked", f"the base reads {base.context} tokens", "give shorter items")
    kept.sort(key=_length)
    ids = torch.zeros(len(kept), max(map(_length, kept)), dtype=torch.long)
    answer = torch.zeros_like(ids, dtype=torch.bool)
    for i, (_, p, a) in enumerate(kept):
        ids[i, : len(p) + len(a)] = torch.tensor(p + a)
        answer[i, len(p) : len(p) + len(a)] = True
    device = base.model.device
    return Table(ids.to(device), answer.to(device), tuple(row for row, _, _ in kept), len(items) - len(kept))


def _coded(base: TextBase, item: Item, end: list[int]) -> tuple[list[int], list[int]]:
    """Token ids of the prompt and of the answer; a text without a prompt is given its first token."""
    if item.prompt:
        answer: list[int] = base.tokenizer(item.answer, add_special_tokens=False)["input_ids"]
        return base.encode(item.prompt), answer + end
    text = base.encode(item.answer)
    return text[:1], text[1:] + end


def _length(row: tuple[int, list[int], list[int]]) -> int:
    return len(row[1]) + len(row[2])


def answer_logits(model: Any, table: Table) -> tuple[Tensor, Tensor]:
    """Logits (answers, vocabulary) before each answer token of the table, row by row, and those tokens (answers,).

    Only the last positions that hold any answer are computed where the model allows that.
    """
    keep = table.answer[:, 1:]
    first = int(keep.any(0).nonzero().min())
    options = {"logits_to_keep": keep.shape[1] - first} if accepts(model, "logits_to_keep") else {}
    logits = model(input_ids=table.ids[:, :-1], use_cache=False, return_dict=True, **options).logits
    shift = keep.shape[1] - logits.shape[1]
    return logits[keep[:, shift:]], table.ids[:, 1:][keep]


def mistaken(base: TextBase, logits: Tensor, targets: Tensor) -> Tensor:
    """Where the likeliest token is not the right one (answers,); any end token is as right as another."""
    best, ends = logits.argmax(-1), torch.tensor(sorted(base.end_tokens), device=logits.device)
    return (best != targets) & ~(torch.isin(best, ends) & torch.isin(targets, ends))


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """How one variant did at one task: by item whether it was right, its nats, and its tokens, all (n,).

    `figure` is percent for exact tasks (more is better), perplexity for others (less is better).
    """

    task: str
    kind: Kind
    right: Values
    nats: Values
    tokens: Values
    left_out: int

    @property
    def figure(self) -> float:
        """The task's own figure."""
        if self.kind == "exact":
            return float(100 * self.right.mean())
        return math.exp(min(float(self.nats.sum() / self.tokens.sum()), 700.0))

    def interval(self, *, seed: int = 0) -> Interval:
        """The figure with its 95 % bootstrap interval over items; see `share_interval` for 0 and 100 %."""
        if self.kind == "exact":
            return share_interval(self.right, seed=seed)
        return Interval(*(math.exp(min(part, 700.0)) for part in ratio_interval(self.nats, self.tokens, seed=seed)))

    @property
    def loss(self) -> float:
        """Nats an answer token."""
        return float(self.nats.sum() / self.tokens.sum())


def score(
    base: TextBase,
    task: Task,
    variants: Sequence[Variant],
    *,
    on_step: OnStep | None = None,
    stop: Callable[[], bool] | None = None,
) -> tuple[Score, ...]:
    """Score variants at a task, one `Score` each.

    `on_step(done, total, task)` counts items; `stop()` true raises `Cancelled`. Raises `WrongBase` where an adapter
    does not fit the base, `LoomError` where no item fits its context.
    """
    table = table_of(base, task.items, closed=task.kind == "exact")
    blocks = [Block(i, stack_factors(base.model, [v])) for i, v in enumerate(variants) if v is not None]
    right, nats = np.zeros((2, len(variants), len(table)))
    done = 0
    for rows in _chunks(base, table, len(variants)):
        if stop and stop():
            raise Cancelled("The scoring was stopped")
        view = view_with_rows(base.model, len(variants), blocks, each=len(rows))
        right[:, rows], nats[:, rows] = _read(base, view, table.take(torch.tensor(rows)), len(variants))
        done += len(rows)
        if on_step:
            on_step(done, len(table), task.name)
    tokens = table.answer[:, 1:].sum(1).double().cpu().numpy()
    order = np.argsort(table.rows)
    return tuple(
        Score(task.name, task.kind, r[order], n[order], tokens[order], table.left_out)
        for r, n in zip(right, nats, strict=True)
    )


def _chunks(base: TextBase, table: Table, variants: int) -> Iterator[list[int]]:
    """The table's rows in batches that fit the memory; rows of like length lie together already."""
    vocabulary = base.model.config.get_text_config().vocab_size
    last = table.answer.int().cumsum(1).argmax(1).tolist()
    first = table.answer.int().argmax(1).tolist()
    start = 0
    while start < len(table):
        end, least = start + 1, first[start]
        while end < len(table):
            least = min(least, first[end])
            count = variants * (end + 1 - start)
            too_wide = count * (last[end] + 1 - least) * vocabulary > _MAX_LOGITS
            if too_wide or count * (last[end] + 1) > _MAX_TOKENS:
                break
            end += 1
        yield list(range(start, end))
        start = end


def _read(base: TextBase, view: Any, part: Table, variants: int) -> tuple[Values, Values]:
    """Whether each row was right and its nats, both (variants, rows)."""
    whole = Table(part.ids.repeat(variants, 1), part.answer.repeat(variants, 1), part.rows * variants)
    with torch.inference_mode():
        logits, targets = answer_logits(view, whole)
        losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none").double()
    wrong = mistaken(base, logits, targets)
    owner = whole.answer[:, 1:].nonzero()[:, 0]
    zero = torch.zeros(len(whole), dtype=torch.float64, device=losses.device)
    wrongs, nats = zero.index_add(0, owner, wrong.double()), zero.index_add(0, owner, losses)
    return (wrongs == 0).double().view(variants, -1).cpu().numpy(), nats.view(variants, -1).cpu().numpy()
