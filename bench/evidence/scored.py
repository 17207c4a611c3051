"""Measure skills that `bench.evidence.seeds` trained over the shipped base: `python -m bench.evidence.scored count`.

Exact match of each skill and of its pairs, as `training.text` measures its own, into assets/text/results.json. A
pair's other skill is the sibling of the same seed where there is one in build/seeds, else the shipped adapter.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

import studio
from bench.evidence.world import SHIPPED, folder_of
from studio.text.skills import COMPOSITIONS, SINGLES, SKILLS
from training.text.adapters import Adapter
from training.text.base import device
from training.text.evaluate import score, summary
from training.text.export import write_json
from training.text.one import BASE, shipped_base

RESULTS = BASE.parent / "results.json"
SEEDS = (0, 1, 2)


def factors(folder: Path) -> Adapter:
    """The adapter of a PEFT folder as training holds it."""
    modules = studio.open_adapter(folder).modules
    pairs = {name: module.load() for name, module in modules.items()}
    return {
        name: (torch.from_numpy(a).to(device()), torch.from_numpy(b).to(device())) for name, (a, b) in pairs.items()
    }


def at_hand(name: str, seed: int) -> Adapter:
    """The skill's adapter of a seed, or the shipped one."""
    folder = folder_of(name, seed) or folder_of(name, SHIPPED)
    assert folder is not None
    return factors(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the skills named and their pairs, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=SINGLES, metavar="NAME", help="skills")
    parser.add_argument("--items", type=int, default=400, help="of each split")
    options = parser.parse_args(arguments)
    began = time.process_time()
    pairs = [pair for pair in COMPOSITIONS if set(SKILLS[pair].parts) & set(options.names)]
    needed = sorted({*options.names, *(part for pair in pairs for part in SKILLS[pair].parts)})
    adapters = {(name, seed): at_hand(name, seed) for name in needed for seed in SEEDS}
    tokenizer = Tokenizer.from_file(str(BASE / "tokenizer.json"))
    scores = score(shipped_base(), tokenizer, adapters, options.items, [*options.names, *pairs])
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    write_json(RESULTS, results | {"exact_match_percent": results["exact_match_percent"] | scores})
    print(summary(scores))
    print(f"{time.process_time() - began:.0f} CPU s, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
