"""Routers beside each other: the collapse simulation, the reference toy, the embedded skills. `python -m bench.remix`

Parts can be run alone (`--part collapse toy text`); each is kept in bench/results/remix.json as it is done, and
docs/evidence-routing.md is written from that file. On two cores: a minute for the first, ten for the toy, an hour for
text.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

import studio
from bench.remix_page import PAGE, page
from bench.synthetic import machine
from studio.files import write_atomic
from studio.learning.fit import Schedule
from studio.routing.baselines import Table, oracle, try_subsets
from studio.routing.ess import bound_probability, collapse
from studio.routing.library import arrow, judge_library, xlora
from studio.routing.measures import Measures
from studio.routing.router import Kind
from studio.routing.tasks import skill_items
from studio.routing.text import Judged, Shape, TextWorld, fresh_router, judge, split_rows, text_world
from studio.routing.toy import make_toy, run_toy
from studio.routing.train import Decide, Settings, Trained, train
from studio.sources import embedded_paths
from studio.text.bases import open_base
from studio.text.skills import COMPOSITIONS, SINGLES

RESULTS = Path(__file__).parent / "results" / "remix.json"
SEEDS = (0, 1, 2)
NORMS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
PAIRS = tuple(name for name in COMPOSITIONS if name != "reverse+twice")  # no sum answers that one: assets/text
TOY_ROUTERS: tuple[tuple[str, Kind, int], ...] = (
    ("dense softmax", "softmax", 2),
    ("top-k softmax", "topk", 2),
    ("ReMix M=2", "remix", 2),
    ("ReMix M=8", "remix", 8),
)
K = 2


def main() -> None:
    """Measure the parts, keep them, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument(
        "--row", action="append", default=[], help="of text or toy: only these rows (of toy, `frozen ReMix M=2`)"
    )
    parser.add_argument("--page", action="store_true", help="write the page alone, from the figures that are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part in () if options.page else options.part:
        PARTS[part](options.row) if options.row else PARTS[part]()
    found = kept()
    write_atomic(PAGE, page(found).encode())
    print(PAGE.read_text())


def kept() -> dict[str, Any]:
    """The figures so far."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def keep(**parts: Any) -> None:
    """Add figures to those of other parts."""
    write_atomic(RESULTS, (json.dumps(kept() | {"machine": machine()} | parts, indent=1) + "\n").encode())


# -- collapse ----------------------------------------------------------------------------------------------------------


def collapse_part() -> None:
    """Fresh softmax routers over 8 adapters, by logit scale."""
    rows = {}
    for norm in NORMS:
        found = collapse(norm, 8, draws=1_000_000)
        rows[f"{norm:g}"] = {
            "at_most_2": found.share_below(2),
            "mean": found.mean,
            "bound_2": bound_probability(norm),
            "bound_3": bound_probability(norm, 3),
        }
    keep(collapse=rows)


# -- the reference toy -------------------------------------------------------------------------------------------------


def toy_part(only: Sequence[str] = ()) -> None:
    """The toy of routing.md 1.5 with every router, experts frozen and trained."""
    for setting in ("frozen", "trained"):
        for name, kind, samples in TOY_ROUTERS:
            if not only or f"{setting} {name}" in only:
                runs = [toy_run(kind, samples, setting == "frozen", seed) for seed in SEEDS]
                held = kept().get("toy", {})
                keep(toy=held | {setting: held.get(setting, {}) | {name: runs}})
                print(setting, name, [run["loss"] for run in runs], flush=True)


def toy_run(kind: Kind, samples: int, frozen: bool, seed: int) -> dict[str, Any]:
    """One run on the toy."""
    started = process_time()
    found = run_toy(make_toy(seed), kind, samples=samples, frozen=frozen, seed=seed).test
    return figures(found) | {"cpu_seconds": process_time() - started}


def figures(found: Measures) -> dict[str, Any]:
    """What the page says of measures."""
    names = ("loss", "support", "support_low", "entropy", "largest", "load", "load_support", "found")
    return {name: getattr(found, name) for name in names}


# -- the embedded skills -----------------------------------------------------------------------------------------------

TRAIN, TEST, STEPS, BATCH, RATE, XLORA_RATE = 16, 16, 100, 8, 0.1, 3e-3


@dataclass(eq=False)
class Counted:
    """A world that counts the distinct (item, decision) pairs asked: the forward passes a run needs with a memory."""

    world: TextWorld
    seen: set[tuple[int, bytes]] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.world)

    def losses(self, rows: Tensor, decide: Decide) -> Tensor:
        """The world's losses."""
        return self.world.losses(rows, Counting(decide, rows.tolist(), self.seen))


@dataclass(frozen=True, eq=False)
class Counting:
    """Decides as another does, and counts."""

    decide: Decide
    rows: list[int]
    seen: set[tuple[int, bytes]]

    def __call__(self, x: Tensor, group: int = 0, mask: Tensor | None = None) -> Tensor:
        """The other's weights."""
        weights = self.decide(x, group, mask)
        keys = weights.detach().cpu().numpy()
        self.seen.update((row, key.tobytes()) for row, key in zip(self.rows, keys, strict=True))
        return weights


def text_part(only: Sequence[str] = ()) -> None:
    """Six adapters and the bare base, two at a time; twelve tasks, six of one skill and six of two."""
    base = open_base("lora-loom/text-base")
    adapters = [studio.open_adapter(embedded_paths()[f"loom:{name}"]) for name in SINGLES]
    shape = Shape(k=K, with_base=True)
    tasks = (*SINGLES, *PAIRS)
    worlds = [
        text_world(base, adapters, skill_items(tasks, split, n, seed, k=K), shape)
        for split, n, seed in (("train", TRAIN, 0), ("test", TEST, 1))
    ]
    about = {"tasks": tasks, "names": worlds[0].names, "train": TRAIN, "test": TEST}
    about |= {"steps": STEPS, "batch": BATCH, "rate": RATE, "xlora_rate": XLORA_RATE}
    for name, work in text_rows(*worlds).items():
        if not only or name in only:
            runs = work()
            keep(text=about | {"rows": kept().get("text", {}).get("rows", {}) | {name: runs}})
            print(name, [run["exact"] for run in runs], flush=True)


Runs = list[dict[str, Any]]


def text_rows(world: TextWorld, test: TextWorld) -> dict[str, Callable[[], Runs]]:
    """What gives the runs of every router."""
    found: dict[str, Callable[[], Runs]] = {"every subset": partial(oracle_runs, test)}
    found |= {"all evenly": partial(even_runs, test)}
    for samples, steps in ((2, STEPS), (8, STEPS), (8, 5 * STEPS)):
        name = f"ReMix M={samples}" + (f", {steps} steps" if steps != STEPS else "")
        found[name] = partial(seeded, partial(trained, world, test, "remix", samples, steps))
    for total in (1.0, float(K)):
        found[f"Arrow (PEFT), total {total:g}"] = partial(arrow_runs, test, total)
    found["dense softmax"] = partial(seeded, partial(trained, world, test, "softmax", 2, STEPS))
    found["top-k softmax"] = partial(seeded, partial(trained, world, test, "topk", 2, STEPS))
    return found | {"X-LoRA (PEFT)": partial(seeded, partial(xlora_run, world, test))}


def seeded(run: Callable[[int], dict[str, Any]]) -> Runs:
    """One run a seed."""
    return [run(seed) for seed in SEEDS]


def oracle_runs(test: TextWorld) -> Runs:
    """The best subset of each item, which has seen the answer; and the best of each task, which knows it by name."""
    rows = torch.arange(len(test))
    table = try_subsets(test, K, rows, on_step=say)
    return [cell(test, oracle(test, K, rows, table=table)), cell(test, by_task(test, table, rows))]


def even_runs(test: TextWorld) -> Runs:
    """All adapters at once, the same share for each."""
    uniform = fresh_router(test, Shape(k=K, kind="uniform", with_base=True), torch.arange(len(test)))
    return [cell(test, judge(test, uniform))]


def arrow_runs(test: TextWorld, total: float) -> Runs:
    """PEFT's Arrow, which is not trained."""
    return [cell(test, judge_library(test, arrow(test, K, total=total), torch.arange(len(test)), total=total))]


def say(done: int, total: int, what: str) -> None:
    """Tell how far it is."""
    print(what, done, total, flush=True)


def by_task(world: TextWorld, table: Table, rows: Tensor) -> Judged:
    """The one subset for each task that loses least over its items: what knowing the task alone would give."""
    task = world.labels.task
    losses = table.losses.copy()
    for i in range(len(world.labels.tasks)):
        losses[task == i] = table.losses[task == i].mean(0)
    each = np.arange(len(rows))
    found = oracle(world, K, rows, table=replace(table, losses=losses))
    best = losses.argmin(1)
    measures = replace(found.measures, loss=float(table.losses[each, best].mean()))
    return Judged(measures, table.right[each, best])


def trained(world: TextWorld, test: TextWorld, kind: Kind, samples: int, steps: int, seed: int) -> dict[str, Any]:
    """One router, trained and judged."""
    shape = Shape(k=K, kind=kind, with_base=True, seed=seed)
    schedule = Schedule(RATE, steps, BATCH, check_every=steps // 4, patience=1000, seed=seed)
    counted, started = Counted(world), process_time()
    router = learn_counted(counted, shape, Settings(samples, schedule=schedule))
    seconds = process_time() - started
    about = {"cpu_seconds": seconds, "passes": len(counted.seen)}
    return cell(test, judge(test, router.router)) | about


def learn_counted(counted: Counted, shape: Shape, settings: Settings) -> Trained:
    """`learn_router` over the counting world."""
    rows = split_rows(counted.world)
    router = fresh_router(counted.world, shape, rows[0])
    return train(counted, rows, router, settings, labels=counted.world.labels)


def xlora_run(world: TextWorld, test: TextWorld, seed: int) -> dict[str, Any]:
    """X-LoRA on the same rows, steps and batch."""
    schedule = Schedule(XLORA_RATE, STEPS, BATCH, check_every=STEPS // 4, patience=1000, seed=seed)
    started = process_time()
    rows = split_rows(world)
    library, state = xlora(world, rows, schedule, total=float(K))
    seconds = process_time() - started
    passes = 2 * (STEPS * BATCH + len(state.valid) * len(rows[1]))  # the base reads each text first
    judged = judge_library(test, library, torch.arange(len(test)), total=K)
    return cell(test, judged) | {"cpu_seconds": seconds, "passes": passes}


def cell(world: TextWorld, judged: Judged) -> dict[str, Any]:
    """What the page says of one run: exact match in percent, in all, on single skills and pairs, and by task."""
    task, names = world.labels.task, world.labels.tasks
    by = {name: float(100 * judged.right[task == i].mean()) for i, name in enumerate(names)}
    single, pair = ([by[name] for name in names if ("+" in name) == both] for both in (False, True))
    exact = {"exact": float(100 * judged.right.mean()), "single": float(np.mean(single)), "pair": float(np.mean(pair))}
    return exact | figures(judged.measures) | {"by_task": by, "heat": judged.measures.heat}


PARTS: dict[str, Callable[..., None]] = {"collapse": collapse_part, "toy": toy_part, "text": text_part}

if __name__ == "__main__":
    main()
