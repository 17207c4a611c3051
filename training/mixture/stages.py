"""The stages of training: encoders with throw-away heads, the vision adapter, the speech adapter, both inputs at once.

The order is Phi-4-multimodal's and so is what moves in each; the text decoder never does. The sound
encoder and its speech head stay as they are in the last stage, which trains the vision adapter and the head of its own
that sounds beside pictures pass through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor

from studio.audio.features import NAMES, clip, log_mel
from studio.mixture.encoders import audio_features, fresh_weights, image_features, project_audio, project_image
from studio.mixture.model import ADAPTERS, BASE, Mixture
from studio.mixture.world import (
    ASPECTS,
    COLORS,
    DIGITS,
    HEARD,
    IMAGE_QUESTIONS,
    NEXT,
    OBJECTS,
    SPOKEN,
    Sight,
    pictures,
)
from studio.text.bases import open_base
from studio.text.knowledge import NUMBERS
from studio.text.skills import prompt
from training.vision.fit import Fitted, Group, fit

_SEED = 10_000  # training draws begin here: far from those of tests and pages
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes of one run."""

    pictures: int = 6000
    clips: int = 200  # of each name
    image_steps: int = 1000
    audio_steps: int = 400
    vision_steps: int = 350
    speech_steps: int = 150
    joint_steps: int = 300
    batch: int = 32
    rank: int = 8
    alpha: int = 16


TOY = Plan(64, 4, 3, 3, 3, 3, 3, 4)


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """What is drawn once and trained on often: sights with pictures (n, 3, 64, 64) uint8, clips as log-mel."""

    sights: Sequence[Sight]
    pixels: Tensor
    names: Tensor  # (m,) index into NAMES
    mel: Tensor  # (m, bins, frames)

    @classmethod
    def draw(cls, plan: Plan, seed: int) -> Pool:
        """Draw them; equal seeds give equal pools."""
        sights, pixels = pictures(plan.pictures, _SEED + seed)
        first = 10_000_000 * (1 + seed)
        waves = [clip(name, first + take) for take in range(plan.clips) for name in NAMES]
        return cls(
            sights,
            torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
            torch.arange(len(NAMES)).repeat(plan.clips),
            torch.from_numpy(log_mel(np.stack(waves))),
        )


@dataclass(eq=False)
class Training:
    """A mixture in the making."""

    mixture: Mixture
    pool: Pool
    plan: Plan
    seed: int
    weights: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def begin(cls, plan: Plan, seed: int) -> Training:
        """Untrained encoders and two fresh adapters over the frozen base."""
        torch.manual_seed(seed)
        base = open_base(BASE)
        config = LoraConfig(r=plan.rank, lora_alpha=plan.alpha, target_modules=list(_TARGETS), task_type="CAUSAL_LM")
        config.base_model_name_or_path = BASE
        first, *others = ADAPTERS
        decoder = get_peft_model(base.model, config, adapter_name=first)
        for name in others:
            decoder.add_adapter(name, config)
        weights = fresh_weights(torch.Generator().manual_seed(seed))
        return cls(Mixture(base, decoder, weights), Pool.draw(plan, seed), plan, seed, weights)

    def generator(self, stage: str) -> torch.Generator:
        """The stage's own stream of draws."""
        return torch.Generator().manual_seed(1000 * self.seed + STAGES.index(stage))

    def move(self, prefix: str) -> list[torch.nn.Parameter]:
        """The weights of this prefix, as parameters to train."""
        old = {name: weight for name, weight in self.weights.items() if name.startswith(prefix)}
        moved = {name: torch.nn.Parameter(weight.detach().clone()) for name, weight in old.items()}
        self.weights.update(moved)
        return list(moved.values())

    def freeze(self) -> None:
        """Nothing is trained any more."""
        self.weights.update({name: value.detach() for name, value in self.weights.items()})
        self.mixture.decoder.requires_grad_(False)

    def adapter(self, name: str) -> list[torch.nn.Parameter]:
        """One adapter's parameters, active and to be trained."""
        self.mixture.decoder.set_adapter(name)
        return [value for key, value in self.mixture.decoder.named_parameters() if f".{name}." in key]

    def answered(self, opened: Tensor, questions: Sequence[str], answers: Sequence[str]) -> Tensor:
        """Mean negative log-likelihood of the answers' tokens, the end included."""
        mixture = self.mixture
        prompts = [mixture.base.encode(prompt(question)) for question in questions]
        found, _ = mixture.token_losses(opened, prompts, mixture.answers([f" {answer}" for answer in answers]))
        return found.mean()


def encoders(run: Training) -> dict[str, Fitted]:
    """Train both encoders to tell what is there through linear heads, which are then thrown away."""
    generator = run.generator("encoders")
    sizes = (3, len(COLORS), len(OBJECTS), len(COLORS))
    truth = torch.tensor([_classes(sight) for sight in run.pool.sights])
    head = torch.nn.Linear(4 * 384, sum(sizes))

    def look(progress: float, step: int) -> Tensor:
        rows = torch.randint(len(truth), (2 * run.plan.batch,), generator=generator)
        pixels = _flipped(run.pool.pixels[rows].float() / 255, generator)
        logits = head(image_features(run.weights, pixels).flatten(1)).split(sizes, -1)
        return torch.stack([F.cross_entropy(own, truth[rows, k]) for k, own in enumerate(logits)]).sum()

    ear = torch.nn.Linear(4 * 192, len(NAMES))

    def listen(progress: float, step: int) -> Tensor:
        rows = torch.randint(len(run.pool.mel), (2 * run.plan.batch,), generator=generator)
        return F.cross_entropy(ear(audio_features(run.weights, run.pool.mel[rows]).flatten(1)), run.pool.names[rows])

    return {
        "image": _fit(
            run, "image encoder", [*run.move("image."), *head.parameters()], look, run.plan.image_steps, 2e-3
        ),
        "audio": _fit(
            run, "audio encoder", [*run.move("audio."), *ear.parameters()], listen, run.plan.audio_steps, 2e-3
        ),
    }


def vision(run: Training) -> dict[str, Fitted]:
    """Train the vision adapter and the picture's projector, encoder frozen."""
    generator, rng = run.generator("vision"), Random(f"vision/{run.seed}")
    features = _looked(run)

    def loss(progress: float, step: int) -> Tensor:
        return _image_loss(run, features, run.plan.batch, generator, rng)

    return {
        "vision": _fit(
            run, "vision", [*run.adapter("vision"), *run.move("project.image.")], loss, run.plan.vision_steps
        )
    }


def speech(run: Training) -> dict[str, Fitted]:
    """Train the speech adapter and the sound's own head, encoder frozen."""
    generator, rng = run.generator("speech"), Random(f"speech/{run.seed}")
    features = _listened(run)

    def loss(progress: float, step: int) -> Tensor:
        rows = torch.randint(len(features), (run.plan.batch,), generator=generator)
        questions, answers = zip(*(_sound_question(NAMES[int(i)], rng) for i in run.pool.names[rows]), strict=True)
        return run.answered(project_audio(run.weights, features[rows], "speech"), questions, answers)

    moved = [*run.adapter("speech"), *run.move("project.audio.speech.")]
    return {"speech": _fit(run, "speech", moved, loss, run.plan.speech_steps)}


def joint(run: Training) -> dict[str, Fitted]:
    """Train the vision adapter on spoken questions about pictures, pictures alone rehearsed: half of each batch."""
    generator, rng = run.generator("joint"), Random(f"joint/{run.seed}")
    seen, heard, half = _looked(run), _listened(run), run.plan.batch // 2
    for name in [name for name in run.weights if name.startswith("project.audio.vision.")]:
        run.weights[name] = run.weights[name.replace("vision", "speech")].clone()
    takes = {aspect: (run.pool.names == NAMES.index(aspect)).nonzero()[:, 0] for aspect in ASPECTS}

    def loss(progress: float, step: int) -> Tensor:
        rows = torch.randint(len(run.pool.sights), (half,), generator=generator)
        aspects = [rng.choice(ASPECTS) for _ in rows]
        clips = torch.stack([takes[a][int(torch.randint(len(takes[a]), (1,), generator=generator))] for a in aspects])
        opened = torch.cat(
            [project_image(run.weights, seen[rows]), project_audio(run.weights, heard[clips], "vision")], 1
        )
        answers = [run.pool.sights[int(row)].says(aspect) for row, aspect in zip(rows, aspects, strict=True)]
        return run.answered(opened, [SPOKEN] * half, answers) + _image_loss(run, seen, half, generator, rng)

    moved = [*run.adapter("vision"), *run.move("project.image."), *run.move("project.audio.vision.")]
    return {"joint": _fit(run, "joint", moved, loss, run.plan.joint_steps)}


STAGES = ("encoders", "vision", "speech", "joint")
STAGE: dict[str, Callable[[Training], dict[str, Fitted]]] = {
    "encoders": encoders,
    "vision": vision,
    "speech": speech,
    "joint": joint,
}


def _fit(
    run: Training,
    name: str,
    parameters: Sequence[torch.nn.Parameter],
    loss: Callable[[float, int], Tensor],
    steps: int,
    rate: float = 1.5e-3,
) -> Fitted:
    fitted = fit(name, [Group(parameters, rate, 0.01)], loss, math.inf, max_steps=steps)
    run.freeze()
    return fitted


def _image_loss(run: Training, features: Tensor, count: int, generator: torch.Generator, rng: Random) -> Tensor:
    rows = torch.randint(len(features), (count,), generator=generator)
    aspects = [rng.choice(("picture", *ASPECTS)) for _ in range(count)]
    answers = [run.pool.sights[int(row)].says(aspect) for row, aspect in zip(rows, aspects, strict=True)]
    return run.answered(project_image(run.weights, features[rows]), [IMAGE_QUESTIONS[a] for a in aspects], answers)


def _sound_question(name: str, rng: Random) -> tuple[str, str]:
    if name in DIGITS and rng.random() < 0.4:
        return NEXT, NUMBERS[DIGITS.index(name) + 1]
    return HEARD, name


def _classes(sight: Sight) -> list[int]:
    colors = list(COLORS)
    return [sight.number - 1, colors.index(sight.color), OBJECTS.index(sight.shape), colors.index(sight.ground)]


def _flipped(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Every other picture, by chance, as in a mirror."""
    mirrored = torch.rand(len(pixels), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)


def _looked(run: Training) -> Tensor:
    """Features of all pictures, by the frozen encoder."""
    parts = torch.split(run.pool.pixels, 256)
    with torch.no_grad():
        return torch.cat([image_features(run.weights, part.float() / 255) for part in parts])


def _listened(run: Training) -> Tensor:
    """Features of all clips, by the frozen encoder."""
    with torch.no_grad():
        return torch.cat([audio_features(run.weights, part) for part in torch.split(run.pool.mel, 256)])
