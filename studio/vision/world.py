"""Analogies with a known answer: what is trained on, what is held out, and how batches are drawn.

An analogy a : a' :: b : b' takes one task, a transform or an ordered pair of transforms, with one draw of its
parameters, to two independent scenes. Held out of training:

- parameters: two bands inside the range of the first parameter (`between`), and all values outside it (`beyond`);
- eight whole transforms (`UNSEEN`);
- ordered pairs of seen transforms (`UNSEEN_PAIRS`).

Training sees besides a third of the pairs that no split asks for (`WIDE_PAIRS`), and seen edits inside a part of the
picture (`REGIONAL`), so that it meets many different edits.

Held-out pairs still occur in the other order, and their members occur alone: composition is what they test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from studio.core.errors import LoomError
from studio.core.late import torch
from studio.vision.edits.transform import PARAMETERS
from studio.vision.regions import regional
from studio.vision.scenes import Picture, integers, render, sample_scene, uniform
from studio.vision.transforms import TRANSFORMS

Task = tuple[str, ...]
Mode = Literal["train", "between", "beyond", "all"]

UNSEEN = ("sepia", "solarize", "motion_blur", "grid_lines", "mirror_half", "swirl", "glow", "colour_pop")
SEEN = tuple(name for name in TRANSFORMS if name not in UNSEEN)
BANDS = ((0.20, 0.27), (0.72, 0.79))
REACH = 0.15  # how far outside [0, 1] extrapolated parameters go
_MIXING = tuple(name for name in SEEN if TRANSFORMS[name].mixes)
PAIRS = tuple((a, b) for a in _MIXING for b in _MIXING if TRANSFORMS[a].family != TRANSFORMS[b].family)
UNSEEN_PAIRS = tuple(pair for index, pair in enumerate(PAIRS) if (index * 7919) % 23 in (3, 11, 17))
SEEN_PAIRS = tuple(pair for pair in PAIRS if pair not in frozenset(UNSEEN_PAIRS))
_SECOND = tuple(name for name in SEEN if TRANSFORMS[name].reads == "pixels")
_OTHERS = tuple((a, b) for a in SEEN for b in _SECOND if a != b and (a, b) not in frozenset(PAIRS))
WIDE_PAIRS = _OTHERS[::3]  # for variety in training alone: a third of all other pairs of seen transforms
REGIONAL = regional(SEEN)  # for variety in training alone
EDITS = {**TRANSFORMS, **REGIONAL}


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Analogies of one task. Images are (groups, members, 3, side, side); a group's members share the parameters."""

    task: Task
    before: torch.Tensor
    after: torch.Tensor
    parameters: torch.Tensor  # (groups, 2, PARAMETERS); the second row belongs to the second transform of a pair


def check(task: Task) -> Task:
    """The task itself if it can be drawn.

    Raises `LoomError` for unknown names, for more than two transforms and for a second one that needs more than pixels.
    """
    for name in task:
        if name not in EDITS:
            raise LoomError(f"There is no transform {name!r}", next=f"choose from {', '.join(TRANSFORMS)}")
    if not 1 <= len(task) <= 2:
        raise LoomError(f"A task has one or two transforms, not {len(task)}")
    if len(task) == 2 and EDITS[task[1]].reads != "pixels":
        raise LoomError(f"{task[1]!r} cannot come second", "it edits the scene, and the first edit leaves only pixels")
    return task


def sample_parameters(count: int, generator: torch.Generator, mode: Mode) -> torch.Tensor:
    """Parameters (count, PARAMETERS); `mode` governs the first one, the others are uniform in [0, 1].

    `train` avoids the bands, `between` lies inside them, `beyond` outside [0, 1], `all` is uniform.
    """
    parameters = uniform(generator, (count, PARAMETERS))
    first, upper = parameters[:, 0], uniform(generator, (count,)) < 0.5
    if mode == "between":
        width = BANDS[0][1] - BANDS[0][0]
        first = torch.where(upper, BANDS[1][0], BANDS[0][0]) + width * first
    elif mode == "beyond":
        first = torch.where(upper, 1 + REACH * first, -REACH * first)
    elif mode == "train":
        first = first * (1 - sum(high - low for low, high in BANDS))
        for low, high in BANDS:
            first = torch.where(first >= low, first + (high - low), first)
    return torch.cat([first[:, None], parameters[:, 1:]], 1)


def edit(task: Task, picture: Picture, parameters: torch.Tensor) -> torch.Tensor:
    """The right answer: the task with parameters (batch, 1 or 2, PARAMETERS) done to the pictures."""
    image = EDITS[task[0]](picture, parameters[:, 0])
    for index, name in enumerate(task[1:], start=1):
        image = EDITS[name].on_pixels(image, parameters[:, index])
    return image


def draw(task: Task, groups: int, members: int, generator: torch.Generator, mode: Mode = "train") -> Batch:
    """Draw `groups` settings of one task, each done to `members` independent scenes."""
    check(task)
    picture = render(sample_scene(groups * members, generator))
    parameters = torch.stack([sample_parameters(groups, generator, mode) for _ in task], 1)
    answer = edit(task, picture, parameters.repeat_interleave(members, 0))
    padded = torch.nn.functional.pad(parameters, (0, 0, 0, 2 - len(task)))
    shape = (groups, members, *answer.shape[1:])
    return Batch(task, picture.image.view(shape), answer.view(shape), padded)


def candidates(picture: Picture, generator: torch.Generator) -> torch.Tensor:
    """Every transform of the world done to the pictures at random parameters, (batch, transforms, 3, side, side)."""
    count = picture.image.shape[0]
    return torch.stack([done(picture, sample_parameters(count, generator, "all")) for done in TRANSFORMS.values()], 1)


def random_task(generator: torch.Generator) -> Task:
    """A seen transform, uniformly."""
    return (SEEN[int(integers(generator, (1,), len(SEEN)))],)
