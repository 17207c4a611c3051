"""One training run: the stages in order, each reading what earlier ones wrote.

`compare` and the two that go on from it may run side by side, one process a GPU, each with contenders of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.formats.containers.lorweb_file import WEIGHTS_NAME
from studio.vision.lorweb import BasisLayer, Lorweb, RoutingConfig
from studio.vision.lorweb_file import read_lorweb, write_lorweb
from studio.vision.pipeline import BASE
from studio.vision.scenes import SIDE
from training.vision import files
from training.vision.autoencoder import Autoencoder
from training.vision.basis import Routed
from training.vision.data import TRANSFORM_IDS, Bank, Codec, as_floats, draw_bank, encode_bank
from training.vision.editor import AnalogySampler, InstructionSampler, Prompt
from training.vision.evaluate import SPLITS, Predict, Trial, copy_b, draw_trials, measure, wrong_reference
from training.vision.fit import Fitted
from training.vision.report import catalogue
from training.vision.settings import Settings
from training.vision.stages import (
    Foundation,
    Kind,
    build,
    empty_prompt,
    kinds,
    train_autoencoder,
    train_base,
    train_contender,
    train_encoder,
)
from training.weights import read_weights, write_weights

STAGES = ("autoencoder", "encoder", "base", "compare", "main", "single", "evaluate")
SEEDS = (0, 1)
STEP_CHOICES = (1, 2, 3, 4, 8)
TARGET_STEPS = 2
VALIDATED = (*SPLITS, "validation")
SINGLE = Path("training", "single")
PARTS = ("down", "up")
_TRIAL_SEED, _BANK_SEED = 999, 100


class Run:
    """The stages as methods. What a stage needs and this process does not hold is read from `out`."""

    def __init__(self, out: Path, settings: Settings, device: torch.device, only: Sequence[str] = ()) -> None:
        self.out, self.settings, self.device = out, settings, device
        self.contenders = only or contenders(settings)

    @property
    def results(self) -> dict[str, Any]:
        """What all stages noted so far."""
        path = self.out / "results.json"
        return files.read_json(path) if path.is_file() else {"fits": {}, "scores": {}}

    def done(self, stage: str) -> bool:
        """Whether the stage's output is there."""
        results = self.results
        known = {"main": "lorweb-main", "single": "single-main"}
        if stage == "evaluate":
            return "lorweb" in results["scores"]
        if stage == "compare":
            return all(name in results["fits"] for name in self.contenders)
        return known.get(stage, stage) in results["fits"]

    # Stages -----------------------------------------------------------------------------------------------------------

    def autoencoder(self) -> None:
        """Train the autoencoder."""
        codec, fitted = train_autoencoder(self.bank, self.settings, self.device)
        config = self.settings.autoencoder.to_diffusers(SIDE, codec.scale, codec.shift)
        files.write_model(self.out / "vae", codec.net.state_dict(), config)
        self._note("autoencoder", asdict(fitted))

    def encoder(self) -> None:
        """Train the relation encoder."""
        encoder, fitted, retrieval = train_encoder(self.bank, self.settings, self.device)
        files.write_encoder(self.out / "training" / "encoder", encoder)
        self._note("encoder", {**asdict(fitted), "retrieval": retrieval})

    def base(self) -> None:
        """Train the base editor, and measure what it draws when it is told the true edit."""
        net, told, fitted = train_base(self.bank, self._latents, self.settings, self.device)
        files.write_model(self.out / "transformer", net.state_dict(), self.settings.transformer.to_diffusers())
        text, pooled = empty_prompt(told, self.device)
        write_weights(self.out / "prompt.safetensors", {"text": text, "pooled": pooled})
        files.write_pipeline_index(self.out)
        self._note("base", asdict(fitted))
        scores = {}
        for split in ("seen", "pair"):
            tasks, parameters = self._true_instructions(split)
            with torch.no_grad():
                text, pooled = told(tasks, parameters)
            sampler = InstructionSampler(net, self.codec, text, pooled, TARGET_STEPS)
            scores[split] = measure(self._trials(split), sampler, self.codec.net.encoder)
        self._score("base told the edit", scores)

    def compare(self) -> None:
        """Train LoRWeB and both single LoRAs for the same time, with every seed; keep the first of the longer ones."""
        for name in self.contenders:
            if name in self.results["fits"]:
                continue
            kind, seed = kinds(self.settings)[name[:-2]], int(name[-1])
            torch.manual_seed(seed)
            model = build(kind, self.foundation, self.settings, self.device)
            fitted = self._train(model, name, self.settings.compare_seconds, seed)
            if name == "lorweb-0":
                self._write_basis(model)
            elif name == "single-total-0":
                self._write_single(model)
            self._note(name, asdict(fitted))
            self._score(name, {split: means(row) for split, row in self._measure_all(model, VALIDATED).items()})

    def main(self) -> None:
        """Train the first LoRWeB on, from the weights that `compare` wrote."""
        model = self._read_basis()
        fitted = self._train(model, "lorweb-main", self.settings.main_seconds, seed=17, restart=0.7)
        self._write_basis(model)
        self._note("lorweb-main", asdict(fitted))

    def single(self) -> None:
        """Train the first LoRA of equal total rank on for as long, and measure it."""
        model = self._read_single()
        fitted = self._train(model, "single-main", self.settings.main_seconds, seed=17, restart=0.7)
        self._write_single(model)
        self._note("single-main", asdict(fitted))
        self._score("single-main", self._measure_all(model))

    def evaluate(self) -> None:
        """Choose the number of steps on the validation set, then measure every split once."""
        model = self._read_basis()
        validation = {
            str(steps): measure(self._trials("validation"), self._sampler(model, steps), self.codec.net.encoder)
            for steps in STEP_CHOICES
        }
        best = max(STEP_CHOICES, key=lambda steps: validation[str(steps)]["psnr"])
        kept = catalogue({"validation": validation})
        self._update({"validation": validation, "steps": best, "catalogue": kept, "mix": self._mix_statistics(model)})
        self._score("copy b", self._measure(copy_b))
        self._score("autoencoder bound", self._measure(self._reconstruct))
        sampler = self._sampler(model, TARGET_STEPS)
        features = self.codec.net.encoder
        trials = {split: self._trials(split) for split in SPLITS}
        wrong = {split: measure(rows, wrong_reference(sampler, rows), features) for split, rows in trials.items()}
        self._score("wrong reference", wrong)
        if best != TARGET_STEPS:
            self._score(f"lorweb, {best} steps", self._measure(self._sampler(model, best)))
        self._score("lorweb", self._measure(sampler))

    # What stages share ------------------------------------------------------------------------------------------------

    @cached_property
    def bank(self) -> Bank:
        """The training pictures."""
        s = self.settings
        return draw_bank(s, _BANK_SEED + s.seed, self.device)

    @cached_property
    def codec(self) -> Codec:
        """The autoencoder as written."""
        config = files.read_json(self.out / "vae" / "config.json")
        net = Autoencoder(files.autoencoder_config(config)).to(self.device)
        net.load_state_dict(read_weights(self.out / "vae", self.device))
        return Codec(net.eval().requires_grad_(False), config["scaling_factor"], config["shift_factor"])

    @cached_property
    def _latents(self) -> Any:
        return encode_bank(self.bank, self.codec)

    @cached_property
    def foundation(self) -> Foundation:
        """What all contenders start from."""
        return self._foundation(self.out / "training" / "encoder")

    def _foundation(self, encoder: Path) -> Foundation:
        base = read_weights(self.out / "transformer", self.device)
        return Foundation(base, read_weights(encoder, self.device), self.prompt)

    @cached_property
    def prompt(self) -> Prompt:
        """The empty instruction as written."""
        state = read_weights(self.out, self.device)
        return state["text"], state["pooled"]

    def _train(self, model: Routed, name: str, seconds: float, seed: int, restart: float = 1.0) -> Fitted:
        data = (self.bank, self._latents, self.prompt)
        return train_contender(model, *data, self.settings, seconds, seed, name, restart)

    def _trials(self, split: str) -> list[Trial]:
        if not hasattr(self, "_drawn"):
            self._drawn: dict[str, list[Trial]] = {}
        if split not in self._drawn:
            seed = _TRIAL_SEED + (*SPLITS, "validation").index(split)
            s = self.settings
            self._drawn[split] = draw_trials(split, s.per_task, seed, self.device, s.max_tasks)
        return self._drawn[split]

    def _true_instructions(self, split: str) -> tuple[Tensor, Tensor]:
        tasks, parameters = [], []
        for trial in self._trials(split):
            ids = [TRANSFORM_IDS[name] for name in trial.task] + [0] * (2 - len(trial.task))
            tasks.append(torch.tensor([ids], device=self.device).expand(len(trial.b), 2))
            parameters.append(trial.parameters)
        return torch.cat(tasks), torch.cat(parameters)

    def _sampler(self, model: Routed, steps: int) -> AnalogySampler:
        return AnalogySampler(model, self.codec, self.prompt, steps)

    def _reconstruct(self, a: Tensor, a2: Tensor, b: Tensor, answer: Tensor) -> Tensor:
        return self.codec.decode(self.codec.encode(answer))

    def _measure_all(self, model: Routed, splits: Sequence[str] = SPLITS) -> dict[str, Any]:
        return self._measure(self._sampler(model, TARGET_STEPS), splits)

    def _measure(self, predict: Predict, splits: Sequence[str] = SPLITS) -> dict[str, Any]:
        return {split: measure(self._trials(split), predict, self.codec.net.encoder) for split in splits}

    @torch.no_grad()
    def _mix_statistics(self, model: Routed) -> dict[str, dict[str, float]]:
        """Per split: perplexity of the mix per layer, its largest share, and the share of adapters in use."""
        found = {}
        for split in ("seen", "transform", "pair"):
            images = ([getattr(trial, name) for trial in self._trials(split)] for name in ("a", "a2", "b"))
            with torch.compiler.set_stance("force_eager"):
                mix = model.route(*(as_floats(torch.cat(part)) for part in images))
            assert mix is not None
            entropy = -(mix.clamp(min=1e-9).log() * mix).sum(-1)
            used = (mix.mean(1) > 0.25 / mix.shape[2]).float().mean()
            found[split] = {
                "perplexity": float(entropy.exp().mean()),
                "largest": float(mix.amax(-1).mean()),
                "used": float(used),
            }
        return found

    def _write_basis(self, model: Routed) -> None:
        """Write basis and encoder; alpha / r goes into B, so that the file's scale is 1 as in released files."""
        router, encoder = model.router, model.encoder
        assert router is not None
        assert encoder is not None
        layers = {}
        for index, (name, layer) in enumerate(model.layers.items()):
            shape = (model.adapters, model.rank)
            down = torch.unflatten(layer.down.detach(), 0, shape).permute(0, 2, 1)
            up = torch.unflatten(layer.up.detach() * layer.scale, 1, shape).permute(1, 2, 0)
            layers[name] = BasisLayer(down, up, router.keys.detach()[index], router.to_q.detach()[index])
        config = RoutingConfig(query_mode="relation-aa'b", encoder="encoder")
        write_lorweb(Lorweb(layers, config, BASE), self.out / "lorweb")
        files.write_encoder(self.out / "encoder", encoder)

    @torch.no_grad()
    def _read_basis(self) -> Routed:
        """The inverse of `_write_basis`."""
        kind: Kind = kinds(self.settings)["lorweb"]
        model = build(kind, self._foundation(self.out / "encoder"), self.settings, self.device)
        router = model.router
        assert router is not None
        basis = read_lorweb(self.out / "lorweb" / WEIGHTS_NAME)
        for index, (name, layer) in enumerate(model.layers.items()):
            stored = basis.layers[name]
            layer.down.copy_(stored.stacked_down())
            layer.up.copy_(stored.stacked_up() / layer.scale)
            router.keys[index].copy_(stored.keys)
            router.to_q[index].copy_(stored.to_q)
        return model.eval()

    def _write_single(self, model: Routed) -> None:
        """Write an ordinary LoRA's factors, (rank, in) and (out, rank) a layer."""
        factors = {name: (layer.down, layer.up * layer.scale) for name, layer in model.layers.items()}
        state = {f"{name}.{part}": t for name, two in factors.items() for part, t in zip(PARTS, two, strict=True)}
        write_weights(self.out / SINGLE / "model.safetensors", state)

    @torch.no_grad()
    def _read_single(self) -> Routed:
        """The inverse of `_write_single`."""
        model = build(kinds(self.settings)["single-total"], self.foundation, self.settings, self.device)
        state = read_weights(self.out / SINGLE, self.device)
        for name, layer in model.layers.items():
            down, up = (state[f"{name}.{part}"] for part in PARTS)
            layer.down.copy_(down)
            layer.up.copy_(up / layer.scale)
        return model.eval()

    def _note(self, name: str, fit: dict[str, Any]) -> None:
        self._update({"fits": {name: fit}})

    def _score(self, name: str, scores: dict[str, Any]) -> None:
        self._update({"scores": {name: scores}})
        for split, row in scores.items():
            print(f"  {name:20s} {split:10s} {row['psnr']:.2f} dB  accuracy {row['accuracy']:.3f}", flush=True)

    def _update(self, news: Mapping[str, Any]) -> None:
        """Add to the results file; rows of `fits` and `scores` join those that are there."""
        about = {"settings": asdict(self.settings), "device": _device_name(self.device), "torch": torch.__version__}
        with files.locked(self.out / "training" / "results"):
            held = self.results
            joined = {key: held[key] | news.get(key, {}) for key in ("fits", "scores")}
            files.write_json(self.out / "results.json", {**held, **about, **news, **joined})


def contenders(settings: Settings) -> list[str]:
    """What `compare` trains: every kind with every seed."""
    return [f"{kind}-{seed}" for seed in SEEDS for kind in kinds(settings)]


def means(row: dict[str, Any]) -> dict[str, Any]:
    """Measures without those by task, which nobody reads of a short run."""
    return {name: value for name, value in row.items() if name != "tasks"}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
