"""Train and ship the adapter of one skill, on this machine: `python -m training.text.one exclaim`.

By the shipped recipe (`training/text`: items, start, 1200 steps of 32) over the shipped base: 260 to 390 CPU seconds.
It writes `adapters/NAME` and the prompts below `--out`. A smaller `--steps` or `--items` is for trying it out.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn.attention import SDPBackend, sdpa_kernel

from studio.core.data import assets
from studio.text.skills import SINGLES
from training.text.__main__ import Plan
from training.text.adapters import Adapter, Table, train_skills, training_items
from training.text.base import device
from training.text.export import write_adapter, write_json
from training.text.model import Shape, StackedLlama
from training.text.prompts import shipped
from training.weights import read_weights

BASE = assets("text", "base")


def shipped_base() -> StackedLlama:
    """The base of assets/text, float32."""
    model = StackedLlama(Shape())
    model.load_state_dict(read_weights(BASE, device()))
    return model.to(device()).eval()


def trained(
    model: StackedLlama, skills: Sequence[str], *, seed: int, start: int, items: int = 0, steps: int = 0
) -> Adapter:
    """The adapter of a skill, or of several skills' data, fed as `training.text` does it; 0 takes the plan's size.

    `seed` draws the items of each skill, `start` the factors and the batches.
    """
    plan = Plan()
    given = [item for name in skills for item in training_items(name, items or plan.items, seed)]
    table = Table.of(Tokenizer.from_file(str(BASE / "tokenizer.json")), given)
    with contextlib.ExitStack() as stack:
        if device() == "cpu":
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the flash kernel's backward is slow in bfloat16
        return train_skills(model, [table], [start], steps or plan.skill_steps, rate=plan.skill_rate, on_step=_say)[0]


def _say(step: int, text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}   step {step}: {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train one skill's adapter and write it where the studio finds it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SINGLES, metavar="SKILL", help=f"one of {', '.join(SINGLES)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=assets("text"), help="default: assets/text")
    parser.add_argument("--steps", type=int, default=0, help="default: as the shipped adapters")
    parser.add_argument("--items", type=int, default=0, help="default: as the shipped adapters")
    given = parser.parse_args(arguments)
    start = 1000 * given.seed + SINGLES.index(given.name)
    sizes = {"items": given.items, "steps": given.steps}
    adapter = trained(shipped_base(), [given.name], seed=given.seed, start=start, **sizes)
    write_adapter(given.out / "adapters" / given.name, adapter)
    write_json(given.out / "prompts.json", shipped())


if __name__ == "__main__":
    main()
