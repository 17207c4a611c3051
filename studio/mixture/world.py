"""What the embedded mixture is asked, with the one right answer: pictures, sounds, and spoken questions on pictures.

Pictures are those of `studio.vision.scenes` with all objects alike: one to three of a shape and a colour on a ground of
another colour. Sounds are those of `studio.audio`. Text alone is the base's own: `studio.text.skills`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType
from typing import Any

import numpy as np

from studio.audio.features import NAMES, clip
from studio.audio.speech import Wave
from studio.core.late import torch
from studio.routing.modality import Inputs, Mode
from studio.text.knowledge import NUMBERS
from studio.text.skills import prompt, questions
from studio.vision.scenes import OBJECTS as MOST
from studio.vision.scenes import SHAPES, Scene, hsv, render, sample_scene, uniform

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

# Words that the base's lexicon knows, so that every answer is made of whole tokens.
OBJECTS = ("star", "heart", "moon", "flower", "house", "tree", "fish", "cat", "boat", "leaf")
_PLURAL = {"fish": "fish", "leaf": "leaves"}
# Hue in turns, saturation, value; each is varied a little.
COLORS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "red": (0.0, 0.88, 0.88),
        "orange": (0.085, 0.95, 0.98),
        "yellow": (0.155, 0.85, 0.97),
        "green": (0.36, 0.8, 0.62),
        "blue": (0.62, 0.82, 0.85),
        "purple": (0.77, 0.72, 0.66),
        "pink": (0.92, 0.45, 0.98),
        "white": (0.0, 0.0, 0.97),
        "black": (0.0, 0.0, 0.08),
        "gray": (0.0, 0.0, 0.52),
    }
)
_VARIED = (0.012, 0.05, 0.04)
IMAGE_QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "picture": "What is in the picture?",
        "color": "What color is it?",
        "shape": "What shape is it?",
        "number": "How many are there?",
        "ground": "What color is the ground?",
    }
)
HEARD = "What do you hear?"
NEXT = "Which number comes after the one you hear?"
SPOKEN = "Answer the question you hear."
ASPECTS = ("color", "shape", "number", "ground")
DIGITS = NUMBERS[:10]


@dataclass(frozen=True, slots=True)
class Sight:
    """What is in a picture."""

    number: int
    color: str
    shape: str
    ground: str

    def says(self, aspect: str) -> str:
        """The right answer to a question of `IMAGE_QUESTIONS`."""
        if aspect == "number":
            return NUMBERS[self.number]
        if aspect == "picture":
            shape = self.shape if self.number == 1 else _PLURAL.get(self.shape, f"{self.shape}s")
            return f"{NUMBERS[self.number]} {self.color} {shape} on {self.ground}"
        return str(getattr(self, aspect))


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One question with its answer; the picture (64, 64, 3) and the sound where the mode has them."""

    prompt: str
    answer: str
    image: Pixels | None = None
    sound: Wave | None = None

    @property
    def inputs(self) -> Inputs:
        """What the rule looks at."""
        return Inputs(True, self.image is not None, self.sound is not None)


def pictures(count: int, seed: int) -> tuple[list[Sight], Pixels]:
    """Random sights and their pictures, uint8 (count, 64, 64, 3); equal seeds give equal pictures."""
    rng, generator = Random(f"sights/{seed}"), torch.Generator().manual_seed(seed)
    sights = [_sight(rng) for _ in range(count)]
    made = [_drawn(sights[at : at + 64], generator) for at in range(0, count, 64)]
    return sights, np.concatenate(made) if made else np.zeros((0, 64, 64, 3), np.uint8)


def picture(sight: Sight, seed: int) -> Pixels:
    """One picture of a given sight, uint8 (64, 64, 3)."""
    made: Pixels = _drawn([sight], torch.Generator().manual_seed(seed))[0]
    return made


def spoken_prompt(question: str) -> str:
    """A question in the form that the base was taught."""
    return prompt(question)


def examples(mode: Mode, count: int, seed: int) -> list[Example]:
    """Examples of one mode, drawn from a seed; those of text are the base's own test questions."""
    rng = Random(f"examples/{mode}/{seed}")
    if mode == "text":
        return [_worded(item.text, " ".join(item.words)) for item in questions("plain", "test", count, seed)]
    if mode == "audio":
        return [_heard(rng, seed * 1_000_003 + index) for index in range(count)]
    sights, pixels = pictures(count, seed)
    if mode == "image":
        return [_seen(rng, *pair) for pair in zip(sights, pixels, strict=True)]
    return [_asked(rng, *pair, seed * 1_000_003 + index) for index, pair in enumerate(zip(sights, pixels, strict=True))]


def _worded(question: str, answer: str) -> Example:
    return Example(spoken_prompt(question), f" {answer}")


def _seen(rng: Random, sight: Sight, pixels: Pixels) -> Example:
    aspect = rng.choice(("picture", *ASPECTS))
    return replace(_worded(IMAGE_QUESTIONS[aspect], sight.says(aspect)), image=pixels)


def _heard(rng: Random, seed: int) -> Example:
    name = rng.choice(NAMES)
    if name in DIGITS and rng.random() < 0.4:
        example = _worded(NEXT, NUMBERS[DIGITS.index(name) + 1])
    else:
        example = _worded(HEARD, name)
    return replace(example, sound=clip(name, seed))


def _asked(rng: Random, sight: Sight, pixels: Pixels, seed: int) -> Example:
    aspect = rng.choice(ASPECTS)
    return replace(_worded(SPOKEN, sight.says(aspect)), image=pixels, sound=clip(aspect, seed))


def _sight(rng: Random) -> Sight:
    color, ground = rng.sample(list(COLORS), 2)
    return Sight(rng.randint(1, MOST), color, rng.choice(OBJECTS), ground)


def _drawn(sights: Sequence[Sight], generator: torch.Generator) -> Pixels:
    scene = _scene(sights, generator)
    image = render(scene).image.permute(0, 2, 3, 1)
    pixels: Pixels = (image * 255).round().to(torch.uint8).numpy()
    return pixels


def _scene(sights: Sequence[Sight], generator: torch.Generator) -> Scene:
    """A scene of the world with its objects made alike, as many as wanted, plain, on a plain ground."""
    found = _with_numbers([sight.number for sight in sights], generator)
    each = (len(sights), MOST)
    fill = _varied([sight.color for sight in sights], generator)[:, None].expand(*each, 3)
    ground = _varied([sight.ground for sight in sights], generator)
    shape = torch.tensor([SHAPES.index(sight.shape) for sight in sights])[:, None].expand(each)
    return replace(
        found,
        ground=ground,
        ground2=ground,
        ground_kind=torch.zeros_like(found.ground_kind),
        shape=shape,
        fill=fill,
        accent=fill * uniform(generator, (len(sights), 1, 1), 0.75, 1.0),
        texture=torch.zeros_like(found.texture),
        line=found.line * 0,
    )


def _with_numbers(numbers: Sequence[int], generator: torch.Generator) -> Scene:
    """Scenes of the world with these numbers of objects: enough are drawn that each number is among them."""
    drawn = sample_scene(12 * len(numbers) + 100, generator)
    counts = drawn.present.sum(1).long()
    rows = {number: (counts == number).nonzero()[:, 0].tolist() for number in set(numbers)}
    chosen = torch.tensor([rows[number].pop() for number in numbers])
    fields = {name: getattr(drawn, name)[chosen] for name in drawn.__dataclass_fields__}
    return Scene(**fields)


def _varied(names: Sequence[str], generator: torch.Generator) -> torch.Tensor:
    """Colours (n, 3) of these names, each a little different."""
    middle = torch.tensor([COLORS[name] for name in names])
    hue, saturation, value = (middle + torch.tensor(_VARIED) * uniform(generator, (len(names), 3), -1, 1)).unbind(1)
    saturation = torch.where(middle[:, 1] == 0, torch.zeros_like(saturation), saturation)
    return hsv(hue, saturation.clamp(0, 1), value.clamp(0, 1))
