"""Does fixing the gauge help LEGO? Every form of the units, on the embedded skills and a real group, in one table.

`python -m bench.lego`: prints the tables and writes bench/results/lego.json. LOOM_REAL_DATA names a folder of real
adapters; without it that part is left out. Figures are means over the sets, each over all modules: the cosine between
the merge and the plain sum of its sources, its energy (squared norm) over the sum's, and what it holds of the sum once
it is scaled best (the cosine squared). By that last figure `svd` is the best that a rank allows; `random` is LEGO with
its clusters drawn by lot. Then what the merges answer: exact answers in percent at compositions of two embedded skills,
which no single adapter was trained on. `--only skills` measures one part again.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from studio.composing.compose import compose, merge, recipe_for
from studio.core.adapter import Adapter
from studio.core.files import write_atomic
from studio.core.linalg import Pair, inner
from studio.evaluation.score import score
from studio.evaluation.tasks import skill_task
from studio.formats import open_adapter
from studio.merging.lego import centroids, pool_of
from studio.merging.stacks import stacks
from studio.recipes.sources import Sources, embedded_paths
from studio.text.bases import open_base
from tools.marks import between

RESULTS = Path(__file__).parent / "results" / "lego.json"
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "methods.md"
MARK = "lego figures"
FORMS = ("raw", "canonical", "balanced", "aligned")
RANKS = (4, 8, 16)
PAIRS, ITEMS = ("math+shout", "math+spanish"), 60
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
        whole = Pair(pool.A, pool.B).double()
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
    names = ("math", "shout", "spanish", "reverse", "code", "twice")
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


def skill_variants(pair: Sequence[Adapter]) -> dict[str, Adapter]:
    """The merges of two skills that are asked, all at weights 1."""
    found = {"sum": merge(pair, "cat", [1.0, 1.0]), "svd rank=8": merge(pair, "svd", [1.0, 1.0], rank=8)}
    for form in FORMS:
        found[f"lego {form} k=8"] = merge(pair, "lego", form=form, k=8)
        bare = merge(pair, "lego", form=form, k=8, parameter_reweighting=False)
        found[f"lego {form} k=8, no parameter reweighting"] = bare
    found["lego raw k=8, 1 restart"] = merge(pair, "lego", k=8, restarts=1)
    found["lego raw k=16"] = merge(pair, "lego", k=16)
    return found


def skill_scores() -> dict[str, Any]:
    """Exact answers in percent by merge and composition; all merges of a pair are asked in one batch."""
    base = open_base("lora-loom/text-base")
    rows: dict[str, dict[str, float]] = {}
    for task in PAIRS:
        pair = [open_adapter(embedded_paths()[f"loom:{name}"]) for name in task.split("+")]
        variants = skill_variants(pair)
        scores = score(base, skill_task(task, n=ITEMS), list(variants.values()))
        for name, one in zip(variants, scores, strict=True):
            rows.setdefault(name, {})[task] = one.figure
    return {"items": ITEMS, "rows": rows}


SHOWN = (
    "svd rank=8",
    *(f"lego {form} k=8" for form in FORMS),
    "lego random k=8",
    "lego raw k=8, 1 restart",
    "lego raw k=8, no parameter reweighting",
    "lego canonical k=8, no parameter reweighting",
    "lego raw k=16",
)


def page_table(found: Mapping[str, Any]) -> str:
    """What docs/reference/methods.md shows of the figures, as Markdown: held energy on both groups, and answers."""
    scores = found["skill scores"]["rows"]
    lines = [f"| merge | held, embedded | held, gpt2 | {' | '.join(PAIRS)} |", "| --- |" + " --- |" * (2 + len(PAIRS))]
    lines.append(f"| the sum, rank 16 | 1.00 | 1.00 | {_answers(scores['sum'])} |")
    for name in SHOWN:
        held = [found[title]["rows"].get(name, {}).get("held") for title in ("embedded skills", "real gpt2 adapters")]
        cells = " | ".join("" if share is None else f"{share:.2f}" for share in held)
        lines.append(
            f"| {name.replace('rank=', 'rank ').replace('k=', 'k = ')} | {cells} | {_answers(scores.get(name))} |"
        )
    return "\n".join(lines)


def _answers(row: Mapping[str, float] | None) -> str:
    return " | ".join("" if row is None else f"{row[pair]:.0f}" for pair in PAIRS)


def page(text: str) -> str:
    """docs/reference/methods.md with the table as the figures have it; raises `ValueError` where its marks are gone."""
    return between(text, MARK, page_table(json.loads(RESULTS.read_text())))


def main() -> None:
    """Run, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("sets", "skills"), help="one part; the other keeps its figures")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the table into the docs")
    options = parser.parse_args()
    if options.page:
        write_atomic(PAGE, page(PAGE.read_text(encoding="utf-8")).encode())
        return
    only = options.only
    torch.manual_seed(0)
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if only else {}
    for title, sets in (("embedded skills", embedded_sets), ("real gpt2 adapters", real_sets)):
        if only != "skills" and (chosen := sets()):
            found[title] = {"sets": [[one.name for one in each] for each in chosen], "rows": rows_of(chosen)}
            print(table(f"{title}, {len(chosen)} sets", found[title]["rows"]), end="\n\n")
    if only != "sets":
        found["skill scores"] = skill_scores()
        print(json.dumps(found["skill scores"], indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
