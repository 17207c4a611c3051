"""Train what the experiments need and nobody ships: `python -m bench.evidence.seeds math shout math+shout`.

A skill's adapters of seeds 1 and 2, by the shipped recipe (`training/text`: items, starts, 1200 steps of 32)
over the shipped base; and for a pair, one LoRA on both skills' data by the same recipe ("data mixing"). They go into
build/seeds; what is there already is not trained again. One takes 260 to 390 CPU seconds, all eleven an hour; on one
H100 with 16 CPU cores `--jobs 11` took 128 s for all. Batches are drawn where it trains and CPU arithmetic is bfloat16,
so they are siblings of the card's seeds 1 and 2, not the same bytes. The recorded figures are of CPU siblings.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

from bench.evidence.world import PAIRS, SEEDS, folder_of
from studio.text.skills import SINGLES
from training.text.export import write_adapter
from training.text.one import shipped_base, trained

NEEDED = (*sorted({part for pair in PAIRS for part in pair.split("+")}), *PAIRS)


def missing(names: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """What is to be trained: skills for every seed; two skills' data for the first, one is enough for a baseline."""
    wanted = [(name, seed) for name in names for seed in (seeds[:1] if "+" in name else seeds)]
    return [(name, seed) for name, seed in wanted if folder_of(name, seed) is None]


def make(job: tuple[str, int]) -> str:
    """Train one adapter and keep it; a line for the log."""
    name, seed = job
    torch.set_num_threads(1)
    started, cpu = time.perf_counter(), time.process_time()
    start = 1000 * seed + (SINGLES.index(name) if name in SINGLES else 100 + PAIRS.index(name))
    adapter = trained(shipped_base(), name.split("+"), seed=seed, start=start)
    write_adapter(SEEDS / str(seed) / name, adapter)
    return f"{name} {seed}: {time.perf_counter() - started:.0f} s, {time.process_time() - cpu:.0f} CPU s"


def main() -> None:
    """Train what is missing of the names given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*NEEDED], metavar="NAME", help="skills, or pairs of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    options = parser.parse_args()
    if unknown := set(options.names) - {*SINGLES, *PAIRS}:
        parser.error(f"no skill {', '.join(sorted(unknown))}; there are {', '.join((*SINGLES, *PAIRS))}")
    with ProcessPoolExecutor(options.jobs) as pool:
        for line in pool.map(make, missing(options.names, options.seeds)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
