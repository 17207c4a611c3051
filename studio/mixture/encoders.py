"""The two little encoders and their projectors, as functions of a flat table of weights.

A picture becomes 4 tokens and a clip 4, each of the decoder's width. Names: `image.*`, `audio.*` are the encoders,
`project.image.*` the picture's projector, `project.audio.speech.*` and `project.audio.vision.*` the sound's: as in
Phi-4-multimodal, a sound beside a picture passes through a head of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

from studio.audio.features import BINS
from studio.core.late import torch

Weights = Mapping[str, "torch.Tensor"]
Head = Literal["speech", "vision"]
WIDTH = 256  # of the decoder
_GROUPS = 8
_IMAGE = (3, 32, 48, 64, 96)
_AUDIO = (BINS, 64, 64, 96, 96)
_SIDE = 2  # image tokens are SIDE x SIDE
_MERGED = 2  # frames of the audio encoder in one token


def fresh_weights(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Untrained encoders and projectors, float32."""
    weights: dict[str, torch.Tensor] = {}
    for name, widths, taps in (("image", _IMAGE, (3, 3)), ("audio", _AUDIO, (5,))):
        for index, (low, high) in enumerate(pairwise(widths)):
            weights[f"{name}.{index}.weight"] = _normal(generator, (high, low, *taps))
            weights[f"{name}.{index}.bias"] = torch.zeros(high)
            weights[f"{name}.{index}.scale"] = torch.ones(high)
            weights[f"{name}.{index}.shift"] = torch.zeros(high)
    sizes = {"image": _IMAGE[-1] * 4, "audio.speech": _AUDIO[-1] * _MERGED, "audio.vision": _AUDIO[-1] * _MERGED}
    for name, size in sizes.items():
        for layer, (low, high) in enumerate(((size, WIDTH), (WIDTH, WIDTH))):
            weights[f"project.{name}.{layer}.weight"] = _normal(generator, (high, low))
            weights[f"project.{name}.{layer}.bias"] = torch.zeros(high)
    return weights


def image_features(weights: Weights, pixels: torch.Tensor) -> torch.Tensor:
    """Pictures (n, 3, 64, 64) in [0, 1] to features (n, 4, 384): each of 2 x 2 regions, its 2 x 2 places in a row."""
    x = _stack(weights, "image", 2 * pixels - 1)  # (n, 96, 4, 4)
    count, channels, side, _ = x.shape
    part = side // _SIDE
    x = x.view(count, channels, _SIDE, part, _SIDE, part).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(count, _SIDE * _SIDE, channels * part * part)


def audio_features(weights: Weights, mel: torch.Tensor) -> torch.Tensor:
    """Log-mel pictures (n, BINS, 128) to features (n, 4, 192), a third of a second each."""
    x = _stack(weights, "audio", mel).mT  # (n, 8, 96)
    return x.reshape(len(x), -1, x.shape[-1] * _MERGED)


def project_image(weights: Weights, features: torch.Tensor) -> torch.Tensor:
    """Image features to tokens of the decoder, (n, 4, WIDTH)."""
    return _project(weights, "project.image", features)


def project_audio(weights: Weights, features: torch.Tensor, head: Head) -> torch.Tensor:
    """Audio features to tokens of the decoder, (n, 4, WIDTH), by one of the two heads."""
    return _project(weights, f"project.audio.{head}", features)


def _project(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    for layer in range(2):
        x = torch.nn.functional.linear(x, weights[f"{name}.{layer}.weight"], weights[f"{name}.{layer}.bias"])
        x = torch.nn.functional.gelu(x) if layer == 0 else x
    return x


def _stack(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    """Four convolutions of stride 2, each normalised in groups of channels."""
    for index in range(4):
        weight, bias, scale, shift = (
            weights[f"{name}.{index}.{part}"] for part in ("weight", "bias", "scale", "shift")
        )
        step = torch.nn.functional.conv2d if weight.ndim == 4 else torch.nn.functional.conv1d
        x = step(x, weight, bias, stride=2, padding=weight.shape[-1] // 2)
        x = torch.nn.functional.gelu(torch.nn.functional.group_norm(x, _GROUPS, scale, shift))
    return x


def _normal(generator: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]) / 2)
