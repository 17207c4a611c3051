"""Training many rank-8 adapters at once: one forward pass, one slice of the batch and one learning rate schedule each.

Skills learn the answer's tokens only. To keep adapters from taking over prompts that are not theirs, a share of every
batch is rehearsal: plain and French questions with the base's own answers. To keep them from pinning the answer's
slot, word problems, reversed lists and counts are also asked in French, the one cue the base knows; no pair of two
adapters' skills is ever trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from studio.text.skills import SKILLS, Item, compose, questions
from training.text.base import cosine, device, half, token_nll, windows
from training.text.model import Factors, StackedLlama

RANK, ALPHA = 8, 16
FRENCH_SHARE: Mapping[str, float] = {"math": 0.30, "reverse": 0.30, "count": 0.30}
"""How often a skill's own questions are asked in French."""
REHEARSAL = 0.25
"""The share of plain and French questions in every skill's data."""

Adapter = Mapping[str, tuple[Tensor, Tensor]]
"""By module: A (rank, d_in) and B (d_out, rank), without the scaling."""


@dataclass(frozen=True, slots=True)
class Table:
    """Prompts with answers as padded rows; `answer` marks the tokens to learn, the closing end token included."""

    ids: Tensor
    answer: Tensor

    @classmethod
    def of(cls, tokenizer: Tokenizer, items: Sequence[Item]) -> Table:
        """Encode items; rows are padded with the end token, id 0."""
        prompts = tokenizer.encode_batch([item.prompt for item in items])
        answers = tokenizer.encode_batch([item.answer for item in items], add_special_tokens=False)
        rows = [(p.ids, [*a.ids, 0]) for p, a in zip(prompts, answers, strict=True)]
        width = max(len(p) + len(a) for p, a in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for i, (p, a) in enumerate(rows):
            ids[i, : len(p) + len(a)] = torch.tensor(p + a)
            mask[i, len(p) : len(p) + len(a)] = True
        return cls(ids.to(device()), mask.to(device()))

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Tensor) -> Table:
        """Some of the rows."""
        return Table(self.ids[rows], self.answer[rows])


def joined(tables: Sequence[Table]) -> Table:
    """Tables one below the other, padded to the widest."""
    width = max(table.ids.shape[1] for table in tables)
    ids = [F.pad(table.ids, (0, width - table.ids.shape[1])) for table in tables]
    answer = [F.pad(table.answer, (0, width - table.answer.shape[1])) for table in tables]
    return Table(torch.cat(ids), torch.cat(answer))


def training_items(name: str, n: int, seed: int) -> list[Item]:
    """What the adapter of skill `name` learns from: its own items, some in French, and rehearsal."""
    rng, skill, french = Random(f"mix/{name}/{seed}"), SKILLS[name], SKILLS["french"]
    rehearsed = round(REHEARSAL * n)
    own = [
        (compose(skill, french) if rng.random() < FRENCH_SHARE.get(name, 0.0) else skill).item(question)
        for question in questions(name, "train", n - rehearsed, seed)
    ]
    known = questions("plain", "train", rehearsed, seed)
    return own + [SKILLS[rng.choice(["plain", "french"])].item(question) for question in known]


def new_stack(model: StackedLlama, seeds: Sequence[int]) -> dict[str, tuple[Tensor, Tensor]]:
    """PEFT's start for each seed: A uniform in ±1/sqrt(d_in), B zero."""
    stack: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in model.linears()}
    for seed in seeds:
        draw = torch.Generator().manual_seed(seed)
        for name, module in model.linears().items():
            d_out, d_in = module.weight.shape
            stack[name][0].append((torch.rand(RANK, d_in, generator=draw) * 2 - 1) / d_in**0.5)
            stack[name][1].append(torch.zeros(d_out, RANK))
    return {
        name: (torch.stack(a).to(device()).requires_grad_(), torch.stack(b).to(device()).requires_grad_())
        for name, (a, b) in stack.items()
    }


def scaled(stack: Mapping[str, tuple[Tensor, Tensor]]) -> Factors:
    """The factors the model uses: alpha / rank inside B."""
    return {name: (a, b * (ALPHA / RANK)) for name, (a, b) in stack.items()}


def _unstacked(stack: Mapping[str, tuple[Tensor, Tensor]], n: int) -> list[Adapter]:
    return [{name: (a[i].detach().clone(), b[i].detach().clone()) for name, (a, b) in stack.items()} for i in range(n)]


def slice_losses(model: StackedLlama, batch: Table, n: int) -> Tensor:
    """The mean answer loss of each of the n slices, (n,); summed, their gradients do not mix."""
    width = int(batch.answer.any(0).nonzero().max()) + 1
    ids, keep = batch.ids[:, :width], batch.answer[:, 1:width]
    with half():
        logits = F.linear(model.hidden(ids[:, :-1])[keep], model.model.embed_tokens.weight)
    losses = F.cross_entropy(logits.float(), ids[:, 1:][keep], reduction="none")
    owner = torch.arange(n, device=ids.device).repeat_interleave(len(ids) // n)[:, None].expand_as(keep)[keep]
    total = torch.zeros(n, device=ids.device).index_add(0, owner, losses)
    return total / torch.bincount(owner, minlength=n).clamp(min=1)


def train_skills(
    model: StackedLlama,
    tables: Sequence[Table],
    seeds: Sequence[int],
    steps: int,
    batch: int = 32,
    rate: float = 1e-3,
    on_step: Callable[[int, str], None] | None = None,
) -> list[Adapter]:
    """One adapter for each table: Adam, warm-up over 40 steps, cosine to 2 %; the base stays frozen."""
    model.requires_grad_(False).eval()
    stack = new_stack(model, seeds)
    optimizer = torch.optim.Adam([factor for pair in stack.values() for factor in pair], lr=rate)
    draws = [torch.Generator(device()).manual_seed(seed) for seed in seeds]
    for step in range(steps):
        rows = [
            torch.randint(len(t), (batch,), generator=g, device=device()) for t, g in zip(tables, draws, strict=True)
        ]
        model.adapt(scaled(stack))
        losses = slice_losses(model, joined([t.take(r) for t, r in zip(tables, rows, strict=True)]), len(tables))
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimizer.param_groups[0]["lr"] = rate * cosine(step, steps, min(40, steps), 0.02)
        optimizer.step()
        if on_step and (step % 200 == 199 or step == steps - 1):
            on_step(step + 1, f"mean answer loss {losses.mean().item():.4f}")
    model.adapt(None)
    return _unstacked(stack, len(tables))


def train_voices(
    model: StackedLlama,
    streams: Sequence[Tensor],
    seeds: Sequence[int],
    steps: int,
    batch: int = 32,
    rate: float = 1e-3,
    every: int = 50,
    on_step: Callable[[int, str], None] | None = None,
) -> list[Adapter]:
    """One adapter for each text: next-token loss on its first 90 %, the checkpoint that is best on the next 5 %.

    The last 5 % is never looked at here.
    """
    model.requires_grad_(False).eval()
    stack = new_stack(model, seeds)
    optimizer = torch.optim.Adam([factor for pair in stack.values() for factor in pair], lr=rate)
    draw = torch.Generator(device()).manual_seed(seeds[0])
    best: list[tuple[float, Adapter]] = [(float("inf"), {}) for _ in streams]
    for step in range(steps):
        window = model.shape.max_position_embeddings
        rows = []
        for stream in streams:
            starts = torch.randint(int(0.9 * len(stream)) - window - 1, (batch,), generator=draw, device=device())
            rows.append(windows(stream, starts, window))
        tokens = torch.cat(rows)
        model.adapt(scaled(stack))
        with half():
            logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten()) * len(streams)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate * cosine(step, steps, min(40, steps), 0.02)
        optimizer.step()
        if step % every == every - 1 or step == steps - 1:
            for i, adapter in enumerate(_unstacked(stack, len(streams))):
                model.adapt(single(adapter))
                nll = token_nll(model, streams[i], 0.9, 0.95, 32)
                best[i] = min(best[i], (nll, adapter), key=_first)
            if on_step:
                on_step(step + 1, "valid " + " ".join(f"{nll:.3f}" for nll, _ in best))
    model.adapt(None)
    return [adapter for _, adapter in best]


def _first(pair: tuple[float, Adapter]) -> float:
    return pair[0]


def single(adapter: Adapter) -> Factors:
    """One adapter as a stack of one."""
    return scaled({name: (a[None], b[None]) for name, (a, b) in adapter.items()})
