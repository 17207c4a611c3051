"""Train the embedded visual-analogy model again, or any part of it.

Needs one GPU for the real thing (an H100 takes about half an hour); `--toy` runs every stage in a minute on a CPU.
Nothing is downloaded: the pictures are drawn. Each stage writes what it made, and `--resume` goes on from there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from training.vision import report
from training.vision.run import STAGES, Run, contenders
from training.vision.settings import TOY, Settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run the wanted stages in order."""
    parser = argparse.ArgumentParser(prog="python -m training.vision", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model, as FluxKontextPipeline loads it")
    parser.add_argument("--toy", action="store_true", help="a few steps of everything, to see that it runs")
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=list(STAGES), help="only these, in order")
    parser.add_argument("--resume", action="store_true", help="skip wanted stages whose output is already there")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=X", help="other numbers, as in base_seconds=60")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="contenders to compare, as in lorweb-0")
    chosen = parser.parse_args(arguments)
    settings = with_numbers(TOY if chosen.toy else Settings(), chosen.set)
    if unknown := set(chosen.only) - set(contenders(settings)):
        parser.error(f"no contender {', '.join(sorted(unknown))}; there are {', '.join(contenders(settings))}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        prepare_gpu()
    began = time.perf_counter()
    run = Run(chosen.out, settings, device, chosen.only)
    for stage in STAGES:
        if stage in chosen.stage and not (chosen.resume and run.done(stage)):
            print(f"[{time.perf_counter() - began:6.1f}] {stage}", flush=True)
            getattr(run, stage)()
    print(f"[{time.perf_counter() - began:6.1f}] end", flush=True)
    print(report.table(run.results), flush=True)


def with_numbers(settings: Settings, changes: Sequence[str]) -> Settings:
    """Settings with numbers changed by texts such as "base_seconds=60"; whole ones stay whole."""
    known = {name: value for name, value in asdict(settings).items() if type(value) in (int, float)}
    numbers = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in known:
            raise SystemExit(f"no number {name!r}; there are {', '.join(known)}")
        numbers[name] = type(known[name])(value)
    return replace(settings, **numbers)


def prepare_gpu() -> None:
    """TF32 where float32 is left; no cuDNN attention: compiled, its backward reads illegal memory at these shapes."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.enable_cudnn_sdp(False)


if __name__ == "__main__":
    main()
