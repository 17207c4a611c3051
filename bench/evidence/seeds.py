"""Train what the experiments need and nobody ships: `python -m bench.evidence.seeds math shout math+shout`.

A skill's adapters of seeds 1 and 2, by the shipped recipe (`training/text`: items, starts, 1200 steps of 32)
over the shipped base; and for a pair, one LoRA on both skills' data by the same recipe ("data mixing"). They go into
build/seeds; what is there already is not trained again. One takes 260 to 390 CPU seconds, all eleven an hour; on one
H100 with 16 CPU cores `--jobs 11` took 128 s for all. Batches are drawn where it trains and CPU arithmetic is bfloat16,
so they are siblings of the card's seeds 1 and 2, not the same bytes. The recorded figures are of CPU siblings.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import torch
from tokenizers import Tokenizer
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.evidence.world import PAIRS, ROOT, SEEDS, folder_of
from studio.text.skills import SINGLES
from training.text.__main__ import Plan
from training.text.adapters import Adapter, Table, train_skills, training_items
from training.text.base import device
from training.text.export import write_adapter
from training.text.model import Shape, StackedLlama
from training.weights import read_weights

BASE = ROOT / "assets" / "text" / "base"
NEEDED = (*sorted({part for pair in PAIRS for part in pair.split("+")}), *PAIRS)


def shipped_base() -> StackedLlama:
    """The base of assets/text, float32."""
    model = StackedLlama(Shape())
    model.load_state_dict(read_weights(BASE, device()))
    return model.to(device()).eval()


def trained(model: StackedLlama, name: str, seed: int) -> Adapter:
    """The adapter of a skill or of two skills' data, started and fed as `training.text` does it."""
    plan = Plan()
    given = [item for part in name.split("+") for item in training_items(part, plan.items, seed)]
    table = Table.of(Tokenizer.from_file(str(BASE / "tokenizer.json")), given)
    start = 1000 * seed + (SINGLES.index(name) if name in SINGLES else 100 + PAIRS.index(name))
    with contextlib.ExitStack() as stack:
        if device() == "cpu":
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the flash kernel's backward is slow in bfloat16
        return train_skills(model, [table], [start], plan.skill_steps, rate=plan.skill_rate, on_step=_say)[0]


def missing(names: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """What is to be trained: skills for every seed; two skills' data for the first, one is enough for a baseline."""
    wanted = [(name, seed) for name in names for seed in (seeds[:1] if "+" in name else seeds)]
    return [(name, seed) for name, seed in wanted if folder_of(name, seed) is None]


def make(job: tuple[str, int]) -> str:
    """Train one adapter and keep it; a line for the log."""
    name, seed = job
    torch.set_num_threads(1)
    started, cpu = time.perf_counter(), time.process_time()
    write_adapter(SEEDS / str(seed) / name, trained(shipped_base(), name, seed))
    return f"{name} {seed}: {time.perf_counter() - started:.0f} s, {time.process_time() - cpu:.0f} CPU s"


def _say(step: int, text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}   step {step}: {text}", flush=True)


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
