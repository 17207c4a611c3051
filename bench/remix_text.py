"""Routers over the embedded skills, a part of `bench.remix`: each one's rate by validation, then its test answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

import studio
from bench.remix_kept import figures, keep, kept
from studio.learning.fit import Schedule
from studio.recipes.sources import embedded_paths
from studio.routing.baselines import Table, oracle, try_subsets
from studio.routing.items import skill_items
from studio.routing.peft_routers import arrow, judge_library, xlora
from studio.routing.router import Granularity
from studio.routing.text import Judged, Reads, Shape, TextWorld, fresh_router, judge, split_rows, text_world
from studio.routing.train import Decide, Settings, Trained, train
from studio.text.bases import open_base

ALONE = ("math", "shout", "spanish", "code", "reverse", "twice")
PAIRS = ("math+shout", "math+spanish", "math+code", "math+twice", "reverse+shout", "reverse+spanish")
TASKS = (*ALONE, *PAIRS)
K, TRAIN, TEST, STEPS, BATCH = 2, 16, 16, 100, 8
SEEDS = (0, 1, 2)
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
XLORA_RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Lower: X-LoRA's classifier reads hidden states as they are, not scaled features."""
SWEPT_SEED = 0
EVEN = 195
"""Steps of a softmax router that read as many texts, validation included, as 500 steps of ReMix with M = 8."""

Runs = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Plan:
    """A row of the table: a router that is trained, and the row in the sweep that gives its rate."""

    rate_of: str
    kind: str = "remix"
    samples: int = 2
    steps: int = STEPS
    granularity: Granularity = "sequence"
    reads: Reads = "embedding"

    def shape(self, seed: int = 0) -> Shape:
        """The router's shape."""
        return Shape(K, kind=self.kind, granularity=self.granularity, reads=self.reads, with_base=True, seed=seed)


SWEPT: Mapping[str, Plan] = {
    "ReMix M=2": Plan("ReMix M=2"),
    "ReMix M=8": Plan("ReMix M=8", samples=8),
    "dense softmax": Plan("dense softmax", "softmax"),
    "top-k softmax": Plan("top-k softmax", "topk"),
}
LONGER: Mapping[str, Plan] = {
    f"{name}, {steps} steps": replace(SWEPT[name], steps=steps)
    for name, steps in (
        ("ReMix M=8", 5 * STEPS),
        ("dense softmax", EVEN),
        ("dense softmax", 5 * STEPS),
        ("top-k softmax", EVEN),
        ("top-k softmax", 5 * STEPS),
    )
}
FINER: Mapping[str, Plan] = {
    f"{name}, {what}": replace(SWEPT[name], granularity=granularity, reads=reads)
    for name in ("ReMix M=2", "ReMix M=8")
    for what, granularity, reads in (("by token", "token", "embedding"), ("by layer", "sequence", "layer"))
}
XLORA = "X-LoRA (PEFT)"


@cache
def world_of(split: str, granularity: Granularity = "sequence", reads: Reads = "embedding") -> TextWorld:
    """Six adapters and the bare base over the training or the test items of twelve tasks."""
    base = open_base("lora-loom/text-base")
    adapters = [studio.open_adapter(embedded_paths()[f"loom:{name}"]) for name in ALONE]
    n, seed = (TRAIN, 0) if split == "train" else (TEST, 1)
    shape = Shape(K, granularity=granularity, reads=reads, with_base=True)
    return text_world(base, adapters, skill_items(TASKS, split, n, seed, k=K), shape)


# -- the rates ---------------------------------------------------------------------------------------------------------


def rates_part(only: Sequence[str] = ()) -> None:
    """The lowest validation loss of each router at each rate; no test item is read."""
    for name in (*SWEPT, XLORA):
        if not only or name in only:
            for rate in XLORA_RATES if name == XLORA else RATES:
                lowest = swept(name, rate)
                rates = kept().get("rates", {})
                keep(rates=rates | {name: rates.get(name, {}) | {f"{rate:g}": lowest}})
                print("rate", name, rate, lowest, flush=True)


def swept(name: str, rate: float) -> float:
    """The lowest validation loss of one run."""
    if name == XLORA:
        world = world_of("train")
        return xlora(world, split_rows(world), schedule(rate, STEPS, SWEPT_SEED), total=float(K))[1].lowest
    return float(learned(SWEPT[name], rate, SWEPT_SEED)[0].state.lowest)


def best_rate(name: str) -> float:
    """The rate that validated best; raises `KeyError` where the sweep has not been run."""
    rates = kept()["rates"][name]
    return float(min(rates, key=rates.__getitem__))


def schedule(rate: float, steps: int, seed: int) -> Schedule:
    """The same for every router: five looks at the validation rows, the best of which is kept."""
    return Schedule(rate, steps, BATCH, check_every=steps // 4, patience=1000, seed=seed)


# -- the table ---------------------------------------------------------------------------------------------------------


def text_part(only: Sequence[str] = ()) -> None:
    """Two of six adapters and the bare base at a time; twelve tasks, six of one skill and six of two."""
    about = {"tasks": TASKS, "names": world_of("train").names, "train": TRAIN, "test": TEST}
    about |= {"steps": STEPS, "batch": BATCH}
    for name, work in text_rows().items():
        if not only or name in only:
            runs = work()
            keep(text=about | {"rows": kept().get("text", {}).get("rows", {}) | {name: runs}})
            print(name, [run["exact"] for run in runs], flush=True)


def text_rows() -> dict[str, Callable[[], Runs]]:
    """What gives the runs of every router, in the order of the table."""
    test = world_of("test")
    found: dict[str, Callable[[], Runs]] = {"every subset": partial(oracle_runs, test)}
    found["all evenly"] = partial(even_runs, test)
    for name, plan in {**SWEPT, **LONGER, **FINER}.items():
        found[name] = partial(seeded, partial(trained, plan))
    for total in (1.0, float(K)):
        found[f"Arrow (PEFT), total {total:g}"] = partial(arrow_runs, test, total)
    return found | {XLORA: partial(seeded, xlora_run)}


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


def learned(plan: Plan, rate: float, seed: int) -> tuple[Trained, int, float]:
    """A trained router, the texts that the model read for it, and the processor's seconds."""
    world = world_of("train", plan.granularity, plan.reads)
    counted, before, started = Counted(world), world.passes, process_time()
    rows = split_rows(world)
    settings = Settings(plan.samples, schedule=schedule(rate, plan.steps, seed))
    found = train(counted, rows, fresh_router(world, plan.shape(seed), rows[0]), settings, labels=world.labels)
    passes = len(counted.seen) if world.pooled is not None else world.passes - before
    return found, passes, process_time() - started


def trained(plan: Plan, seed: int) -> dict[str, Any]:
    """One router, trained at its best rate and judged."""
    rate = best_rate(plan.rate_of)
    found, passes, seconds = learned(plan, rate, seed)
    test = world_of("test", plan.granularity, plan.reads)
    return cell(test, judge(test, found.router)) | {"cpu_seconds": seconds, "passes": passes, "rate": rate}


def xlora_run(seed: int) -> dict[str, Any]:
    """X-LoRA on the same rows, steps and batch."""
    world, test, rate, started = world_of("train"), world_of("test"), best_rate(XLORA), process_time()
    rows = split_rows(world)
    library, state = xlora(world, rows, schedule(rate, STEPS, seed), total=float(K))
    seconds = process_time() - started
    passes = 2 * (STEPS * BATCH + len(state.valid) * len(rows[1]))  # the base reads each text first
    judged = judge_library(test, library, torch.arange(len(test)), total=K)
    return cell(test, judged) | {"cpu_seconds": seconds, "passes": passes, "rate": rate}


def cell(world: TextWorld, judged: Judged) -> dict[str, Any]:
    """What the page says of one run: exact match in percent, in all, on single skills and pairs, and by task."""
    task, names = world.labels.task, world.labels.tasks
    by = {name: float(100 * judged.right[task == i].mean()) for i, name in enumerate(names)}
    single, pair = ([by[name] for name in names if ("+" in name) == both] for both in (False, True))
    exact = {"exact": float(100 * judged.right.mean()), "single": float(np.mean(single)), "pair": float(np.mean(pair))}
    return exact | figures(judged.measures) | {"by_task": by, "heat": judged.measures.heat}
