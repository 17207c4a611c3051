"""Train the embedded mixture again: `python -m training.mixture --out assets/mixture`.

Needs one CPU thread for about ten minutes, and the embedded text base; nothing is downloaded, all data are drawn. Each
stage keeps what it made in the work folder, so that an interrupted run goes on where it stopped. `--toy` takes a few
steps of everything, to see that it runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from studio.mixture.encoders import fresh_weights
from studio.mixture.model import ADAPTERS, BASE, ENCODERS
from training.mixture.stages import STAGE, STAGES, TOY, Plan, Training
from training.vision.files import read_json, write_json
from training.weights import to_half, write_weights

_LORA = "lora/"


@dataclass(frozen=True, slots=True)
class Run:
    """Where one seed's run keeps its stages, and how large it is."""

    work: Path
    plan: Plan
    seed: int

    def train(self) -> None:
        """Every stage that is not there yet, then the files as they ship."""
        done = [stage for stage in STAGES if (self.work / f"{stage}.json").is_file()]
        if len(done) == len(STAGES):
            return
        training = Training.begin(self.plan, self.seed)
        if done:
            self.restore(training, done[-1])
        for stage in STAGES[len(done) :]:
            wall, spent = time.perf_counter(), time.process_time()
            fits = STAGE[stage](training)
            seconds = {"wall": round(time.perf_counter() - wall, 1), "cpu": round(time.process_time() - spent, 1)}
            self.keep(training, stage, {"fits": {name: asdict(fit) for name, fit in fits.items()}, "seconds": seconds})

    def keep(self, training: Training, stage: str, log: dict[str, Any]) -> None:
        """Write a stage's weights, then its log: the log says that the stage is whole."""
        factors = {_LORA + key: value for key, value in training.mixture.decoder.named_parameters() if ".lora_" in key}
        self.work.mkdir(parents=True, exist_ok=True)
        state = {key: value.detach().contiguous() for key, value in {**training.weights, **factors}.items()}
        save_file(state, self.work / f"{stage}.safetensors")
        write_json(self.work / f"{stage}.json", log)

    def restore(self, training: Training, stage: str) -> None:
        """Take up the weights of a stage."""
        stored = load_file(self.work / f"{stage}.safetensors")
        training.weights.update({key: value for key, value in stored.items() if not key.startswith(_LORA)})
        parameters = dict(training.mixture.decoder.named_parameters())
        with torch.no_grad():
            for key, value in stored.items():
                if key.startswith(_LORA):
                    parameters[key.removeprefix(_LORA)].copy_(value)

    def export(self, out: Path) -> None:
        """The folder as it ships, float16: two PEFT folders, the encoders, the log of the stages."""
        stored = load_file(self.work / f"{STAGES[-1]}.safetensors")
        write_weights(out / ENCODERS, {key: stored[key] for key in fresh_weights(torch.Generator())})
        for name in ADAPTERS:
            mine = {
                key.removeprefix(_LORA).replace(f".{name}.", "."): value
                for key, value in stored.items()
                if f".{name}.weight" in key and key.startswith(_LORA)
            }
            write_weights(out / f"{name}-lora" / "adapter_model.safetensors", to_half(mine))
            write_json(out / f"{name}-lora" / "adapter_config.json", _config(self.plan, mine))
        logs = {stage: read_json(self.work / f"{stage}.json") for stage in STAGES}
        plan = {"plan": asdict(self.plan), "seed": self.seed, "stages": logs, "threads": torch.get_num_threads()}
        write_json(out / "training.json", plan)


def _config(plan: Plan, factors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What PEFT needs to load an adapter."""
    targets = sorted({key.split(".")[-3] for key in factors})
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": BASE,
        "r": plan.rank,
        "lora_alpha": plan.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": targets,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the seeds; the first is written to `--out`, the others to `out` folders beside their stages."""
    parser = argparse.ArgumentParser(prog="python -m training.mixture", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the first seed's files go")
    parser.add_argument("--work", type=Path, default=Path("build/mixture"), help="where stages keep their results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="which seeds to train")
    parser.add_argument("--toy", action="store_true", help="a few steps of everything, to see that it runs")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for index, seed in enumerate(given.seeds):
        run = Run(given.work / f"seed-{seed}", TOY if given.toy else Plan(), seed)
        run.train()
        run.export(given.out if index == 0 else run.work / "out")


if __name__ == "__main__":
    main()
