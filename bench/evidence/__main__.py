"""Re-test the papers' claims on the embedded world: `make evidence`, or `python -m bench.evidence`.

Every part (an experiment, a pair, a seed) is kept in build/evidence as soon as it is measured, one 0 or 1 an item, so a
run that was stopped goes on. Where `bench.evidence.seeds` has trained no adapters of a seed, the shipped ones are used
with that seed's examples, draws and learning, and the page says so. Then writes bench/results/evidence.json, and from
it docs/explanation/evidence.md and the table in README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.evidence.experiments import EXPERIMENTS
from bench.evidence.page import write_pages
from bench.evidence.world import EVERY, ROOT, SHIPPED, Size, World, adapters_of, folder_of, is_at_hand
from studio.core.files import write_atomic
from studio.text.bases import open_base
from studio.text.folders import EMBEDDED

PARTS = ROOT / "build" / "evidence"
RESULTS = ROOT / "bench" / "results" / "evidence.json"


class Part(NamedTuple):
    """An experiment on a pair; `adapters` is the seed the adapters were trained with, `seed` that of all the rest."""

    experiment: str
    pair: str
    seed: int
    adapters: int

    @property
    def file(self) -> Path:
        """Where it is kept."""
        return PARTS / f"{self.experiment}-{self.pair.replace('+', '-')}-{self.seed}-{self.adapters}.json"


def missing(options: argparse.Namespace) -> Iterator[Part]:
    """The parts to measure, the first pair's first."""
    for pair in options.pairs:
        for seed in options.seeds:
            adapters = seed if is_at_hand(pair, seed) else SHIPPED
            for name in options.experiments:
                part = Part(name, pair, seed, adapters)
                is_made = name != "mixing" or folder_of(pair, seed) is not None
                if pair in EXPERIMENTS[name].pairs and is_made and not part.file.exists():
                    yield part


def newest(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One part for each experiment, pair and seed: with adapters of its own seed, where there is such a one."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for part in parts:
        key = (part["experiment"], part["pair"], part["seed"])
        if key not in found or part["adapters"] == part["seed"]:
            found[key] = part
    return list(found.values())


def measure(part: Part) -> str:
    """Measure one part and keep it; a line for the log."""
    name, pair, seed, adapters = part
    torch.set_num_threads(1)
    base = open_base(EMBEDDED)
    world = World(replace(base, model=base.model.float()), adapters_of(adapters), seed, Size())
    started, cpu = time.perf_counter(), time.process_time()
    rows = EXPERIMENTS[name].run(world, pair)
    spent = {"seconds": round(time.perf_counter() - started, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
    found = {**part._asdict(), **spent, "rows": rows}
    write_atomic(part.file, json.dumps(found).encode())
    load = os.getloadavg()[0]
    return f"{name} {pair} {seed}: {spent['seconds']:.0f} s, {spent['cpu_seconds']:.0f} CPU s, load {load:.1f}"


def main() -> None:
    """Measure what is missing, then write the results and the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", nargs="+", choices=EVERY, default=[*EVERY])
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=[*EXPERIMENTS])
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--no-page", action="store_true", help="only measure; a later run writes results and pages")
    options = parser.parse_args()
    PARTS.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        for line in pool.map(measure, missing(options)):
            print(line, flush=True)
    if not options.no_page:
        write_results()


def write_results() -> None:
    """The results file of all parts, and the pages that come of it."""
    parts = newest([json.loads(path.read_text()) for path in sorted(PARTS.glob("*.json"))])
    about = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
    results = {"about": about | asdict(Size()), "parts": parts}
    write_atomic(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    write_pages(results)


if __name__ == "__main__":
    main()
