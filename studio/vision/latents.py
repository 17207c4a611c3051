"""Latent maps and tokens of the embedded model, shared by training and the sampler: packing, positions, Euler steps.

Layout: the noise tokens are b' alone; the context image is the strip [b | a | a'], with b in the place of b'. The
paper's 2 x 2 composite [a a'; b b'] generates a, a' and b again; a strip needs a quarter of the noise tokens, and the
stock pipeline runs it because it gives the context image its own positions.
"""

from __future__ import annotations

from collections.abc import Callable

from studio.core.late import torch


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Tokens (batch, h w / 4, 4 channels) of latents (batch, channels, h, w), packed as FluxPipeline does."""
    batch, channels, height, width = latents.shape
    squares = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The inverse of `pack`; height and width are those of the latents."""
    batch, _, channels = tokens.shape
    squares = tokens.view(batch, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(batch, channels // 4, height, width)


def positions(height: int, width: int, image: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Positions (tokens, 3) of a latent map: 0 for the noise or 1 for the context, then row and column."""
    rows, columns = height // 2, width // 2
    ids = torch.zeros(rows, columns, 3, device=device)
    ids[..., 0] = image
    ids[..., 1] = torch.arange(rows, device=device)[:, None]
    ids[..., 2] = torch.arange(columns, device=device)[None]
    return ids.reshape(-1, 3)


def strip(a: torch.Tensor, a2: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The context [b | a | a'] of images or latents, (batch, channels, h, 3 w)."""
    return torch.cat([b, a, a2], 3)


def all_positions(target: torch.Tensor, context: torch.Tensor, text_tokens: int) -> torch.Tensor:
    """Positions of text, target and context tokens in the model's order; text stands at the origin."""
    device = target.device
    noise = positions(target.shape[2], target.shape[3], 0, device)
    seen = positions(context.shape[2], context.shape[3], 1, device)
    return torch.cat([torch.zeros(text_tokens, 3, device=device), noise, seen])


def sigmas(steps: int) -> list[float]:
    """Noise levels of `steps` Euler steps, from 1 down to 0, those of FlowMatchEulerDiscreteScheduler with shift 1."""
    return [1 - k / steps for k in range(steps)] + [0.0]


def euler(
    velocity: Callable[[torch.Tensor, float], torch.Tensor],
    noise: torch.Tensor,
    steps: int,
    on_step: Callable[[int, int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Follow dx/dt = velocity(x, t) from t = 1 to 0.

    `on_step(done, steps, estimate)` sees after every step where the path would end if it went on straight.
    """
    levels, x = sigmas(steps), noise
    for k in range(steps):
        v = velocity(x, levels[k])
        if on_step is not None:
            on_step(k + 1, steps, x - levels[k] * v)
        x = x + (levels[k + 1] - levels[k]) * v
    return x
