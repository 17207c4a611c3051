"""Fixed, seeded trials for every split, and the measures on them.

Right-transform accuracy asks whether the answer given is nearer, in squared error, to the right b' than to any other
of the world's transforms of b (each at random parameters) and to b itself; chance is below 0.02.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from studio.evaluation.image_quality import perceptual, psnr, ssim
from studio.vision import world
from studio.vision.scenes import render, sample_scene
from studio.vision.transforms import TRANSFORMS
from training.vision.data import as_bytes, as_floats

SPLITS = ("seen", "between", "beyond", "transform", "pair")
Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Trial:
    """Analogies of one task with their answers and the rival pictures, all uint8."""

    task: world.Task
    a: Tensor
    a2: Tensor
    b: Tensor
    answer: Tensor
    parameters: Tensor  # (n, 2, 3), unused ones zero
    rivals: Tensor  # (n, rivals, 3, side, side)


def plan(split: str, per_task: int) -> list[tuple[world.Task, world.Mode, int]]:
    """The tasks of a split, how their parameters are drawn and how many analogies each gets."""
    if split in ("seen", "validation"):
        return [((name,), "train", per_task) for name in world.SEEN]
    if split == "between":
        return [((n,), "between", per_task) for n in world.SEEN if TRANSFORMS[n].first not in ("none", "choice")]
    if split == "beyond":
        return [((n,), "beyond", per_task) for n in world.SEEN if TRANSFORMS[n].first == "linear"]
    if split == "transform":
        return [((name,), "all", 3 * per_task) for name in world.UNSEEN]
    if split == "pair":
        return [(pair, "train", per_task) for pair in world.UNSEEN_PAIRS]
    raise ValueError(f"no split {split!r}")


@torch.no_grad()
def draw_trials(split: str, per_task: int, seed: int, device: torch.device, limit: int | None = None) -> list[Trial]:
    """The trials of a split; the same seed gives the same pictures on the same kind of device."""
    generator = torch.Generator(device).manual_seed(seed)
    return [_draw_trial(task, mode, count, generator) for task, mode, count in plan(split, per_task)[:limit]]


def _draw_trial(task: world.Task, mode: world.Mode, count: int, generator: torch.Generator) -> Trial:
    first, second = (render(sample_scene(count, generator)) for _ in range(2))
    parameters = torch.stack([world.sample_parameters(count, generator, mode) for _ in task], 1)
    rivals = as_bytes(world.candidates(second, generator))
    others = [index for index, name in enumerate(TRANSFORMS) if (name,) != task]
    itself = as_bytes(second.image)
    used = torch.tensor([TRANSFORMS[name].parameters for name in task], device=generator.device)
    known = parameters * (torch.arange(3, device=generator.device) < used[:, None])
    return Trial(
        task,
        a=as_bytes(first.image),
        a2=as_bytes(world.edit(task, first, parameters)),
        b=itself,
        answer=as_bytes(world.edit(task, second, parameters)),
        parameters=torch.nn.functional.pad(known, (0, 0, 0, 2 - len(task))),
        rivals=torch.cat([rivals[:, others], itself[:, None]], 1),
    )


@torch.no_grad()
def measure(trials: Sequence[Trial], predict: Predict, features: nn.Module) -> dict[str, Any]:
    """Means over all analogies, and per task, of what `predict(a, a', b, answer)` gives.

    `predict` takes uint8 batches and returns images in [0, 1]; only reference rows (the autoencoder bound) may use
    `answer`. `above_copy` is the share of analogies whose PSNR exceeds that of copying b.
    """
    columns = (torch.cat([getattr(trial, name) for trial in trials]) for name in ("a", "a2", "b", "answer"))
    answers = torch.split(predict(*columns), [len(trial.b) for trial in trials])
    rows = [_measure_one(trial, answer, features) for trial, answer in zip(trials, answers, strict=True)]
    per_task = {
        "+".join(trial.task): {name: round(float(value.mean()), 4) for name, value in row.items()}
        for trial, row in zip(trials, rows, strict=True)
    }
    means = {name: round(float(torch.cat([row[name] for row in rows]).mean()), 4) for name in rows[0]}
    return {**means, "analogies": sum(len(trial.b) for trial in trials), "tasks": per_task}


def _measure_one(trial: Trial, images: Tensor, features: nn.Module) -> dict[str, Tensor]:
    truth, b = as_floats(trial.answer), as_floats(trial.b)
    score = psnr(images, truth)
    rivals = torch.stack([((images - as_floats(r)) ** 2).mean((1, 2, 3)) for r in trial.rivals.unbind(1)], 1)
    return {
        "psnr": score,
        "ssim": ssim(images, truth),
        "perceptual": perceptual(images, truth, features),
        "accuracy": (((images - truth) ** 2).mean((1, 2, 3)) < rivals.amin(1)).float(),
        "above_copy": (score > psnr(b, truth)).float(),
    }


def wrong_reference(predict: Predict, trials: Sequence[Trial]) -> Predict:
    """The control: every b is shown with a pair of another task, one longest trial away."""
    shift = max(len(trial.b) for trial in trials)
    return lambda a, a2, b, answer: predict(a.roll(shift, 0), a2.roll(shift, 0), b, answer)


def copy_b(a: Tensor, a2: Tensor, b: Tensor, answer: Tensor) -> Tensor:
    """The other control, a predictor that changes nothing."""
    return as_floats(b)
