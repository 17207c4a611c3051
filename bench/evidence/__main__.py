"""Re-test the papers' claims on the embedded world: `make evidence`, or `python -m bench.evidence`.

Every part (an experiment, a pair, a seed) is kept in build/evidence as soon as it is measured, one 0 or 1 an item, so a
run that was stopped goes on. What `bench.evidence.seeds` has not trained is left out, and the page says so. Then writes
bench/results/evidence.json, and from it docs/evidence.md and the table in README.md.
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

import torch

from bench.evidence.experiments import EXPERIMENTS
from bench.evidence.page import write_pages
from bench.evidence.world import ROOT, Size, World, adapters_of, folder_of, is_at_hand
from studio.files import write_atomic
from studio.text.bases import open_base
from studio.text.folders import EMBEDDED

PARTS = ROOT / "build" / "evidence"
RESULTS = ROOT / "bench" / "results" / "evidence.json"
Part = tuple[str, str, int]


def file_of(part: Part) -> Path:
    """Where a part is kept."""
    return PARTS / f"{'-'.join(map(str, part)).replace('+', '-')}.json"


def missing(seeds: list[int], experiments: list[str]) -> Iterator[Part]:
    """The parts to measure, the first pair's first."""
    for pair in dict.fromkeys(pair for name in experiments for pair in EXPERIMENTS[name].pairs):
        for seed in seeds:
            for name in experiments:
                here = pair in EXPERIMENTS[name].pairs and is_at_hand(pair, seed)
                if name == "mixing":
                    here = here and folder_of(pair, seed) is not None
                if here and not file_of((name, pair, seed)).exists():
                    yield name, pair, seed


def measure(part: Part) -> str:
    """Measure one part and keep it; a line for the log."""
    name, pair, seed = part
    torch.set_num_threads(1)
    base = open_base(EMBEDDED)
    world = World(replace(base, model=base.model.float()), adapters_of(seed), seed, Size())
    started, cpu = time.perf_counter(), time.process_time()
    rows = EXPERIMENTS[name].run(world, pair)
    spent = {"seconds": round(time.perf_counter() - started, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
    found = {"experiment": name, "pair": pair, "seed": seed, **spent, "rows": rows}
    write_atomic(file_of(part), json.dumps(found).encode())
    load = os.getloadavg()[0]
    return f"{name} {pair} {seed}: {spent['seconds']:.0f} s, {spent['cpu_seconds']:.0f} CPU s, load {load:.1f}"


def main() -> None:
    """Measure what is missing, then write the results and the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=[*EXPERIMENTS])
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    options = parser.parse_args()
    PARTS.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        for line in pool.map(measure, missing(options.seeds, options.experiments)):
            print(line, flush=True)
    parts = [json.loads(path.read_text()) for path in sorted(PARTS.glob("*.json"))]
    about = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
    results = {"about": about | asdict(Size()), "parts": parts}
    write_atomic(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    write_pages(results)


if __name__ == "__main__":
    main()
