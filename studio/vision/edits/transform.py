"""What an edit is: an exact function of a picture and up to three numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from studio.core.late import torch
from studio.vision.scenes import Picture, render

PARAMETERS = 3
Family = Literal["colour", "filter", "overlay", "geometry", "object", "layer"]
First = Literal["none", "linear", "amount", "cyclic", "choice"]


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """One edit. `reads` says what it needs: pixels only, the rendered layers, or the scene itself.

    `first` is the kind of the first parameter: `linear` can be extrapolated, `amount` ends at a full effect,
    `cyclic` is a hue or an angle, `choice` picks a variant, `none` means that there are no parameters.
    `mixes`: takes part in pairs.
    """

    name: str
    family: Family
    edit: Callable[..., Any]
    parameters: int
    first: First
    reads: Literal["pixels", "layers", "scene"] = "pixels"
    mixes: bool = False

    def __call__(self, picture: Picture, p: torch.Tensor) -> torch.Tensor:
        """The edited images, (batch, 3, side, side) in [0, 1]; p is (batch, 3)."""
        if self.reads == "scene":
            return render(self.edit(picture.scene, p)).image
        edited: torch.Tensor = self.edit(picture if self.reads == "layers" else picture.image, p)
        return edited.clamp(0, 1)

    def on_pixels(self, image: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        """Apply to any images, as the second edit of a pair; only for transforms that read pixels alone."""
        edited: torch.Tensor = self.edit(image, p)
        return edited.clamp(0, 1)
