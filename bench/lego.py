"""Does fixing the gauge help LEGO? Every form of the units, on the embedded skills and a real group, in one table.

`python -m bench.lego`: prints the tables and writes bench/results/lego.json. LOOM_REAL_DATA names a folder of real
adapters; without it that part is left out. Figures are means over the sets, each over all modules: the cosine between
the merge and the plain sum of its sources, its energy (squared norm) over the sum's, and what it holds of the sum once
it is scaled best (the cosine squared). By that last figure `svd` is the best that a rank allows; `random` is LEGO with
its clusters drawn by lot.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from studio.adapter import Adapter
from studio.compose import Sources, compose, recipe_for
from studio.formats import open_adapter
from studio.linalg import Pair, inner
from studio.merging.lego import centroids, pool_of
from studio.merging.stacks import stacks
from studio.sources import embedded_paths

RESULTS = Path(__file__).parent / "results" / "lego.json"
FORMS = ("raw", "canonical", "balanced", "aligned")
RANKS = (4, 8, 16)
Figures = dict[str, float]


def figures(cosine: float, before: float, after: float) -> Figures:
    """The three figures of one merge."""
    return {"cosine": cosine, "energy": (after / before) ** 2, "held": cosine**2}


def merged(adapters: Sequence[Adapter], method: str, **knobs: Any) -> Figures:
    """One merge at weights 1, through the studio."""
    report = compose(recipe_for(adapters, method, [1.0] * len(adapters), knobs), Sources(tuple(adapters))).report
    return figures(report.cosine_to_sum or 0.0, report.norm_before, report.norm_after)


def by_lot(adapters: Sequence[Adapter], k: int) -> Figures:
    """LEGO with its k clusters drawn by lot, each of about the same size."""
    before = after = dot = 0.0
    for stack in stacks(adapters, budget=1 << 28):
        count = len(adapters)
        pool = pool_of(stack.pairs, torch.ones(len(stack), count), "raw")
        generator = torch.Generator().manual_seed(0)
        n = pool.A.shape[-2]
        labels = torch.stack([torch.randperm(n, generator=generator) % k for _ in range(len(stack))])
        pair = centroids(pool, labels, k, q="inf")
        scaled = pair.scaled((n / count / k) ** 0.5)
        whole = Pair(*pool).double()
        before += inner(whole, whole).sum().item()
        after += inner(scaled, scaled).sum().item()
        dot += inner(scaled, whole).sum().item()
    return figures(dot / (before * after) ** 0.5, before**0.5, after**0.5)


def rows_of(sets: Sequence[Sequence[Adapter]]) -> dict[str, Figures]:
    """Every way of merging at every rank, averaged over the sets."""
    found: dict[str, Figures] = {}
    for k in RANKS:
        ways = {f"lego {form} k={k}": [merged(one, "lego", k=k, form=form) for one in sets] for form in FORMS}
        ways[f"lego random k={k}"] = [by_lot(one, k) for one in sets]
        ways[f"svd rank={k}"] = [merged(one, "svd", rank=k) for one in sets]
        for name, taken in ways.items():
            found[name] = {key: mean(one[key] for one in taken) for key in taken[0]}
    return found


def table(title: str, rows: Mapping[str, Figures]) -> str:
    """The rows as Markdown."""
    lines = [
        f"**{title}**",
        "",
        "| merge | cosine to the sum | energy / sum's | held, scaled best |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['cosine']:.3f} | {row['energy']:.3f} | {row['held']:.3f} |" for name, row in rows.items()
    ]
    return "\n".join(lines)


def embedded_sets() -> list[list[Adapter]]:
    """All pairs of six embedded skills, and the six together."""
    names = ("math", "shout", "spanish", "reverse", "code", "rhyme")
    skills = [open_adapter(embedded_paths()[f"loom:{name}"]) for name in names]
    return [*(list(pair) for pair in combinations(skills, 2)), skills]


def real_sets() -> list[list[Adapter]]:
    """Pairs of real gpt2 adapters, if there are any here."""
    root = os.environ.get("LOOM_REAL_DATA")
    folders = sorted(Path(root, "loras", "gpt2").iterdir()) if root else []
    usable = [open_adapter(folder) for folder in folders if (folder / "adapter_config.json").is_file()]
    return [
        list(pair)
        for pair in combinations(usable, 2)
        if pair[0].modules.keys() == pair[1].modules.keys() and min(one.norm() for one in pair) > 0
    ]


def main() -> None:
    """Run, print, and keep the figures."""
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    for title, sets in (("embedded skills", embedded_sets()), ("real gpt2 adapters", real_sets())):
        if sets:
            found[title] = {"sets": [[one.name for one in each] for each in sets], "rows": rows_of(sets)}
            print(table(f"{title}, {len(sets)} sets", found[title]["rows"]), end="\n\n")
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
