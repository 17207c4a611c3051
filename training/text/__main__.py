"""Train the embedded text world again: `python -m training.text --texts DIR --out assets/text`.

Needs torch, tokenizers, safetensors, numpy and a folder of texts (`training/text/corpus.py` lists the files).
On one H200 the whole run takes a few minutes; `--toy` runs every stage at a thousandth of the size on a CPU, to check
the code. Stages keep their results in the work folder, so each can be run again alone: `--stage
data|base|adapters|evaluate|export|voices`; `voices` needs only the texts and what was shipped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from studio.core.errors import LoomError
from studio.text.skills import SINGLES
from training.text import corpus
from training.text.adapters import Adapter, Table, single, train_skills, train_voices, training_items
from training.text.base import BaseConfig, device, token_nll, train
from training.text.evaluate import sample, score, summary
from training.text.export import write, write_adapter, write_base, write_json
from training.text.model import Shape, StackedLlama
from training.text.prompts import STORIES, VOICES, shipped
from training.text.voices import judge_shipped

STAGES = ("data", "base", "adapters", "evaluate", "export", "voices")
ADAPTER_SEEDS = (0, 1, 2)
SHIPPED_SEED = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes of one run."""

    stories: int = 50_000
    knowledge: int = 300_000
    copies: int = 8
    base: BaseConfig = field(default_factory=BaseConfig)
    items: int = 15_000
    skill_steps: int = 1200
    skill_rate: float = 1.5e-3
    voice_steps: int = 400
    tests: int = 400


TOY_SHAPE = Shape(32, 64, 2, 2, 2600)
TOY = Plan(
    stories=2000,
    knowledge=4000,
    copies=1,
    base=BaseConfig(shape=TOY_SHAPE, steps=12, batch=8, window=64),
    items=200,
    skill_steps=4,
    voice_steps=4,
    tests=20,
)


def say(*parts: object) -> None:
    """Progress, flushed."""
    print(time.strftime("%H:%M:%S"), *parts, flush=True)


def progress(step: int, text: str) -> None:
    """The `on_step` of every stage."""
    say(f"  step {step}: {text}")


@dataclass(frozen=True, slots=True)
class Run:
    """Where a run reads and writes, and how large it is."""

    texts: Path
    work: Path
    out: Path
    plan: Plan

    def tokenizer(self) -> Tokenizer:
        """The trained tokenizer."""
        return Tokenizer.from_file(str(self.work / "tokenizer.json"))

    def stream(self, name: str) -> torch.Tensor:
        """One token stream, on the device."""
        return torch.from_numpy(np.load(self.work / "streams" / f"{name}.npy").astype(np.int16)).to(device())

    def base(self) -> StackedLlama:
        """The trained base as it ships: rounded to float16."""
        model = StackedLlama(self.plan.base.shape).to(device())
        model.load_state_dict(
            {name: weight.float() for name, weight in load_file(self.work / "base.safetensors").items()}
        )
        return model.eval()

    def adapters(self, seed: int) -> dict[str, Adapter]:
        """The trained adapters of one seed, as they ship."""
        flat = load_file(self.work / f"adapters-{seed}.safetensors")
        found: dict[str, dict[str, list[torch.Tensor]]] = {}
        for key, factor in sorted(flat.items()):
            name, module, _ = key.split("/")
            found.setdefault(name, {}).setdefault(module, []).append(factor.float().to(device()))
        return {name: {module: (a, b) for module, (a, b) in modules.items()} for name, modules in found.items()}

    def log(self, name: str, value: dict[str, Any]) -> None:
        """Keep one stage's figures."""
        write_json(self.work / f"{name}.json", value)


def make_data(run: Run) -> None:
    """Texts to tokenizer and token streams."""
    started = time.perf_counter()
    tiny, valid, books = corpus.train_stories(run.texts), corpus.valid_stories(run.texts), corpus.books(run.texts)
    stories, lines = corpus.generated(run.plan.stories, run.plan.knowledge)
    voices = {name: corpus.voice(run.texts, name) for name in corpus.VOICES}
    samples = [*tiny * 2, *stories[:3000], *lines[:20_000], *(text[:150_000] for text in [*books, *voices.values()])]
    tokenizer = corpus.train_tokenizer(samples, run.plan.base.shape.vocab_size)
    write(run.work / "tokenizer.json", tokenizer.to_str().encode())
    renaming = Random(0)
    copies = [*tiny, *(corpus.renamed(renaming, text) for _ in range(run.plan.copies) for text in tiny)]
    texts = {"tiny": copies, "stories": stories, "books": books, "knowledge": lines, "valid": valid}
    texts |= {name: [text] for name, text in voices.items()}
    (run.work / "streams").mkdir(parents=True, exist_ok=True)
    sizes = {}
    for name, parts in texts.items():
        ids = corpus.stream(tokenizer, parts)
        np.save(run.work / "streams" / f"{name}.npy", ids)
        sizes[name] = {"texts": len(parts), "characters": sum(map(len, parts)), "tokens": len(ids)}
        say(name, sizes[name])
    run.log("data", {"sizes": sizes, "seconds": round(time.perf_counter() - started, 1)})


def make_base(run: Run) -> None:
    """The base, rounded to float16 as it ships."""
    streams = {name: run.stream(name) for name in run.plan.base.mix}
    model, log = train(run.plan.base, streams, run.stream("valid"), on_step=progress)
    say("valid nll, second half", log["valid_nll"], "own", log["own_nll"], "seconds", log["seconds"])
    half = {name: weight.detach().half().contiguous() for name, weight in model.state_dict().items()}
    save_file(half, run.work / "base.safetensors", metadata={"format": "pt"})
    run.log("base", log)


def make_adapters(run: Run) -> None:
    """Every skill with every seed in one stack; every voice in another."""
    started, tokenizer, model, plan = time.perf_counter(), run.tokenizer(), run.base(), run.plan
    jobs = [(name, seed) for seed in ADAPTER_SEEDS for name in SINGLES]
    tables = [Table.of(tokenizer, training_items(name, plan.items, seed)) for name, seed in jobs]
    say("items ready,", len(jobs), "skill adapters")
    seeds = [1000 * seed + SINGLES.index(name) for name, seed in jobs]
    skills = train_skills(model, tables, seeds, plan.skill_steps, rate=plan.skill_rate, on_step=progress)
    trained = dict(zip(jobs, skills, strict=True))
    skill_seconds = round(time.perf_counter() - started, 1)
    streams = [run.stream(name) for name in corpus.VOICES]
    voice_seeds = [50 + i for i in range(len(streams))]
    voices = train_voices(model, streams, voice_seeds, plan.voice_steps, on_step=progress)
    trained |= {(name, SHIPPED_SEED): voice for name, voice in zip(corpus.VOICES, voices, strict=True)}
    for seed in ADAPTER_SEEDS:
        flat = {
            f"{name}/{module}/{side}": factor.half().cpu().contiguous()
            for (name, of), adapter in trained.items()
            if of == seed
            for module, pair in adapter.items()
            for side, factor in zip("AB", pair, strict=True)
        }
        save_file(flat, run.work / f"adapters-{seed}.safetensors")
    run.log("adapters", {"skill_seconds": skill_seconds, "seconds": round(time.perf_counter() - started, 1)})


def make_results(run: Run) -> None:
    """Scores, likelihoods and samples."""
    started, tokenizer, model = time.perf_counter(), run.tokenizer(), run.base()
    by_seed = {seed: run.adapters(seed) for seed in ADAPTER_SEEDS}
    skills = {(name, seed): adapters[name] for seed, adapters in by_seed.items() for name in SINGLES}
    scores = score(model, tokenizer, skills, run.plan.tests)
    shipped_adapters, valid = by_seed[SHIPPED_SEED], run.stream("valid")
    valid_nll = {"base": token_nll(model, valid, 0.5)}
    voice_nll = {}
    samples = {"stories": sample(model, tokenizer, [prompt for _, prompt in STORIES], seed=0)}
    for name, adapter in shipped_adapters.items():
        before = token_nll(model, run.stream(name), 0.95) if name in VOICES else None
        model.adapt(single(adapter))
        valid_nll[name] = token_nll(model, valid, 0.5)
        if name in VOICES:
            voice_nll[name] = {"base": before, "adapter": token_nll(model, run.stream(name), 0.95)}
            samples[name] = sample(model, tokenizer, [VOICES[name][1]] * 2, seed=1, tokens=120)
        model.adapt(None)
    logs = {stage: json.loads((run.work / f"{stage}.json").read_text()) for stage in ("data", "base", "adapters")}
    size = logs["data"]["sizes"]["valid"]
    bits = valid_nll["base"] / float(np.log(2)) * size["tokens"] / size["characters"]
    run.log(
        "results",
        {
            "exact_match_percent": scores,
            "tests_per_split": run.plan.tests,
            "adapter_seeds": list(ADAPTER_SEEDS),
            "valid_nll": valid_nll,
            "valid_bits_per_character": round(bits, 4),
            "voice_nll": voice_nll,
            "logs": logs,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "seconds": round(time.perf_counter() - started, 1),
        },
    )
    run.log("samples", samples)
    print(summary(scores))
    say("valid", valid_nll, "voices", voice_nll)


def make_files(run: Run) -> None:
    """Everything under `--out`, but for the card, which people write."""
    write_base(run.out / "base", run.base().state_dict(), run.tokenizer(), run.plan.base.shape)
    for name, adapter in run.adapters(SHIPPED_SEED).items():
        if name in corpus.VOICES and name not in corpus.SHIPPED_VOICES:
            continue
        write_adapter(run.out / "adapters" / name, adapter)
    write_json(run.out / "prompts.json", shipped())
    write(run.out / "results.json", (run.work / "results.json").read_bytes())


def judge_voices(run: Run) -> None:
    """What a classifier says of the shipped voices, into the shipped results; held-out excerpts for the scoreboard."""
    figures, excerpts = judge_shipped(run.out, run.texts)
    results = json.loads((run.out / "results.json").read_text())
    write_json(run.out / "results.json", results | {"voice_classifier": figures})
    write_json(run.out / "voices.json", excerpts)
    say("voices", figures["accuracy_held_out"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages asked for."""
    parser = argparse.ArgumentParser(prog="python -m training.text", description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="folder of texts to train on")
    parser.add_argument("--out", type=Path, default=Path("assets/text"), help="where the trained files go")
    parser.add_argument("--work", type=Path, default=Path("build/text"), help="where stages keep their results")
    parser.add_argument("--stage", choices=STAGES, action="append", help="run only this stage (may be given again)")
    parser.add_argument("--toy", action="store_true", help="a tiny run on any machine, to check the code")
    given = parser.parse_args(arguments)
    run = Run(given.texts, given.work, given.out, TOY if given.toy else Plan())
    run.work.mkdir(parents=True, exist_ok=True)
    makers = dict(
        zip(STAGES, (make_data, make_base, make_adapters, make_results, make_files, judge_voices), strict=True)
    )
    try:
        for stage in given.stage or STAGES:
            say(stage)
            makers[stage](run)
    except LoomError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
