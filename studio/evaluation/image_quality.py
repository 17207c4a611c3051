"""How near a picture is to the right one: PSNR, SSIM, a perceptual distance. Images are (batch, 3, h, w) in [0, 1]."""

from __future__ import annotations

from typing import Any

from studio.core.late import torch


def psnr(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Peak signal to noise ratio in dB per image, at most 60."""
    error = ((images - truth) ** 2).mean((1, 2, 3)).clamp(min=1e-6)
    return -10 * torch.log10(error)


def ssim(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Structural similarity per image (Wang et al. 2004): 11 x 11 Gaussian window, sigma 1.5, valid positions only."""
    offset = torch.arange(11, device=images.device).float() - 5
    line = torch.exp(-(offset**2) / 4.5)
    line = line / line.sum()
    window = (line[:, None] * line[None]).expand(3, 1, 11, 11)
    stacked = torch.cat([images, truth, images * images, truth * truth, images * truth])
    means = torch.nn.functional.conv2d(stacked, window, groups=3)
    x, y, xx, yy, xy = means.chunk(5)
    vx, vy, cross = xx - x * x, yy - y * y, xy - x * y
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * x * y + c1) * (2 * cross + c2) / ((x * x + y * y + c1) * (vx + vy + c2))
    return value.mean((1, 2, 3))


def perceptual(images: torch.Tensor, truth: torch.Tensor, encoder: Any) -> torch.Tensor:
    """LPIPS-like distance per image: squared gap of the unit-length features of the autoencoder's encoder.

    The mean over its levels; `encoder` has `conv_in` and `down_blocks` (that of diffusers' AutoencoderKL or of the
    training module). The form is that of Zhang et al. 2018 without learned weights; the features are those of our own
    autoencoder, so values compare only with each other.
    """
    x, y = encoder.conv_in(images * 2 - 1), encoder.conv_in(truth * 2 - 1)
    total = _direction_gap(x, y)
    for block in encoder.down_blocks:
        x, y = block(x), block(y)
        total = total + _direction_gap(x, y)
    return total / (1 + len(encoder.down_blocks))


def _direction_gap(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    normalise = torch.nn.functional.normalize
    return ((normalise(x, dim=1) - normalise(y, dim=1)) ** 2).sum(1).mean((1, 2))
