"""What the trained world can do: exact match alone and composed, story likelihood, samples.

Exact match is teacher-forced: a row counts when the arg max is right at every answer token and at the end, which is
what greedy decoding would have written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

import torch
from tokenizers import Tokenizer
from torch import Tensor

from studio.text.skills import COMPOSITIONS, SINGLES, SKILLS, Split, items
from training.text.adapters import ALPHA, RANK, Adapter, Table
from training.text.base import device, half
from training.text.model import Factors, StackedLlama

Weighted = Sequence[tuple[float, Adapter]]
"""A merge in delta space: the sum of weight times adapter. Empty: the base alone."""


def merged(merge: Weighted, names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """The exact sum as concatenated factors, scaling and weights inside B."""
    return {
        name: (
            torch.cat([adapter[name][0] for _, adapter in merge]),
            torch.cat([weight * (ALPHA / RANK) * adapter[name][1] for weight, adapter in merge], 1),
        )
        for name in names
    }


def stacked(model: StackedLlama, merges: Sequence[Weighted]) -> Factors:
    """Merges of unequal rank in one stack, padded with zeros."""
    rank = RANK * max(1, *(len(merge) for merge in merges))
    stack = {}
    for name, module in model.linears().items():
        d_out, d_in = module.weight.shape
        a = torch.zeros(len(merges), rank, d_in, device=device())
        b = torch.zeros(len(merges), d_out, rank, device=device())
        for i, merge in enumerate(merges):
            if merge:
                down, up = merged(merge, [name])[name]
                a[i, : len(down)], b[i, :, : len(down)] = down, up
        stack[name] = (a, b)
    return stack


@torch.no_grad()
def exact_match(model: StackedLlama, merges: Sequence[Weighted], table: Table, chunk: int = 100) -> list[float]:
    """The share of rows each merge answers exactly, in percent."""
    model.adapt(stacked(model, merges))
    right = torch.zeros(len(merges), device=device())
    for start in range(0, len(table), chunk):
        rows = table.take(torch.arange(start, min(start + chunk, len(table)), device=device()))
        ids, answer = rows.ids.repeat(len(merges), 1), rows.answer.repeat(len(merges), 1)
        with half():
            best = model(ids[:, :-1]).argmax(-1)
        ok = ((best == ids[:, 1:]) | ~answer[:, 1:]).all(1)
        right += ok.view(len(merges), -1).sum(1)
    model.adapt(None)
    return [round(100 * value, 1) for value in (right / len(table)).tolist()]


def random_like(adapter: Adapter, seed: int) -> Adapter:
    """The control: factors drawn from a normal distribution with each factor's own spread."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: tuple((torch.randn(m.shape, generator=draw) * m.std().cpu()).to(m.device) for m in pair)  # type: ignore[misc]
        for name, pair in adapter.items()
    }


def score(
    model: StackedLlama,
    tokenizer: Tokenizer,
    adapters: Mapping[tuple[str, int], Adapter],
    n: int,
    names: Sequence[str] = ("plain", "french", *SINGLES, *COMPOSITIONS),
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Exact match in percent by skill or pair, then split, then method: one figure for each seed, `base` has one.

    `seen` is the test split: operands and facts of the training, in questions never trained on.
    """
    seeds = sorted({seed for _, seed in adapters})
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name in names:
        methods: dict[str, list[Weighted]] = {"base": [()]}
        if name in SINGLES:
            methods["adapter"] = [[(1.0, adapters[name, seed])] for seed in seeds]
        if name in COMPOSITIONS:
            first, second = SKILLS[name].parts
            pairs = [(adapters[first, seed], adapters[second, seed]) for seed in seeds]
            methods |= {
                first: [[(1.0, a)] for a, _ in pairs],
                second: [[(1.0, b)] for _, b in pairs],
                "uniform": [[(0.5, a), (0.5, b)] for a, b in pairs],
                "sum": [[(1.0, a), (1.0, b)] for a, b in pairs],
                "random": [
                    [(1.0, random_like(a, 2 * i)), (1.0, random_like(b, 2 * i + 1))] for i, (a, b) in enumerate(pairs)
                ],
            }
        flat = [merge for merges in methods.values() for merge in merges]
        found[name] = {}
        splits: Mapping[str, Split] = {"kept": "kept", "seen": "test"}
        for label, split in splits.items():
            figures = iter(exact_match(model, flat, Table.of(tokenizer, items(name, split, n, seed=1))))
            found[name][label] = {method: [next(figures) for _ in merges] for method, merges in methods.items()}
    return found


def spread(values: Sequence[float]) -> str:
    """Mean and, with several seeds, the sample standard deviation."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


@torch.no_grad()
def sample(
    model: StackedLlama,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    seed: int,
    tokens: int = 230,
    temperature: float = 0.5,
    top_p: float = 0.9,
) -> list[str]:
    """One continuation for each prompt (prompt included), nucleus sampling, no cache: for the record, not for speed."""
    model.eval()
    draw = torch.Generator(device()).manual_seed(seed)
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(prompts))]
    shortest = min(map(len, rows))
    ids = torch.tensor([row[:shortest] for row in rows], device=device())
    for _ in range(min(tokens, model.shape.max_position_embeddings - shortest)):
        with half():
            logits = model(ids)[:, -1].float() / temperature
        sorted_p, order = logits.softmax(-1).sort(-1, descending=True)
        sorted_p = sorted_p * ((sorted_p.cumsum(-1) - sorted_p) < top_p)
        chosen = order.gather(1, torch.multinomial(sorted_p, 1, generator=draw))
        for i, row in enumerate(rows):
            if len(row) > ids.shape[1]:
                chosen[i] = row[ids.shape[1]]
        ids = torch.cat([ids, chosen], 1)
    texts = []
    for row in ids[:, 1:].tolist():
        texts.append(tokenizer.decode(row[: row.index(0)] if 0 in row else row))
    return texts


def summary(scores: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> str:
    """The scores as a Markdown table, a line for each skill or pair and method."""
    lines = ["| skill | method | kept | seen |", "| --- | --- | --- | --- |"]
    for name, splits in scores.items():
        for method in splits["kept"]:
            lines.append(f"| {name} | {method} | {spread(splits['kept'][method])} | {spread(splits['seen'][method])} |")
    return "\n".join(lines)
