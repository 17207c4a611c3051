"""Re-test the papers' claims on the embedded world: `make evidence`, or `python -m bench.evidence`.

Every part (an experiment, a pair, a seed) is kept in build/evidence as soon as it is measured, one 0 or 1 an item, so a
run that was stopped goes on. Where `bench.evidence.seeds` has trained no adapters of a seed, the shipped ones are used
with that seed's examples, draws and learning, and the page says so. Then brings them into bench/results/evidence.json,
where what was not measured again stays as it was, and from it writes docs/explanation/evidence.md and README's table.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.evidence.experiments import EXPERIMENTS
from bench.evidence.page import read_results, write_pages
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
    """One part for each experiment, pair and seed: the first, or the first with adapters of its own seed if any has."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for part in sorted(parts, key=lambda part: part["adapters"] != part["seed"]):
        found.setdefault((part["experiment"], part["pair"], part["seed"]), part)
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
    """The record with the parts measured here, and the pages that come of it; what was not measured again stays."""
    measured = [json.loads(path.read_text()) for path in sorted(PARTS.glob("*.json"))]
    results = merged(read_results(RESULTS), measured, _here() | asdict(Size()))
    write_atomic(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    write_pages(results)


def merged(record: Mapping[str, Any], measured: list[dict[str, Any]], about: Mapping[str, Any]) -> dict[str, Any]:
    """The record with what was measured now in place of the same parts.

    Raises `ValueError` where the two were measured by samples of other sizes, which no table may mix.
    """
    sizes = asdict(Size()).keys()
    if differing := [name for name in sizes if record["about"].get(name) != about[name]]:
        raise ValueError(f"the record was measured with another {differing[0]}: write it anew from all parts")
    both = {name: "; ".join(dict.fromkeys([record["about"][name], about[name]])) for name in ("torch", "device")}
    parts = newest([*measured, *record["parts"]])
    order = {name: place for place, name in enumerate(EXPERIMENTS)}
    parts.sort(key=lambda part: (order[part["experiment"]], part["pair"], part["seed"]))
    return {"about": {**about, **both} if measured else record["about"], "parts": parts}


def _here() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"torch": torch.__version__, "device": device}


if __name__ == "__main__":
    main()
