"""What one visitor has on the table: pictures, what the model saw of them, the sliders. Frozen; changes replace it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

SLIDERS = 32  # as many as released bases have adapters; those of smaller ones are hidden
Picture = Image.Image


@dataclass(frozen=True, slots=True, eq=False)
class Other:
    """Another analogy with the same b: what the model saw of it, and the mix (layers, N) that it asks for."""

    seen: Any
    mix: Any


@dataclass(frozen=True, slots=True, eq=False)
class AnalogySession:
    """One visitor's analogy; every change is a new version.

    `task` is the world's edit that the pictures show, if one does. `model` names what draws: the embedded model, or one
    that was opened and is told `prompting`. `seen` is what it saw of the pictures, None while one is missing. `other`
    is the far end of the way between two.
    """

    pictures: tuple[Picture | None, Picture | None, Picture | None] = (None, None, None)
    truth: Picture | None = None
    task: tuple[str, ...] = ()
    model: str = ""
    prompting: Any = None
    seen: Any = None
    other: Other | None = None
    gains: tuple[float, ...] = (1.0,) * SLIDERS
    renormalise: bool = False
    temperature: float = 1.0
    strength: float = 1.0
    steps: int = 2
    seed: int = 0
    t: float = 0.0
    version: int = 0
