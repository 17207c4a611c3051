"""The FLUX.1 autoencoder in plain torch, with diffusers' tensor names and values.

Training needs this so that it runs where diffusers is not installed; `tests/unit/test_vision_nets.py` holds it equal to
`diffusers.AutoencoderKL`. Only what the embedded model uses is here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """The fields of diffusers' AutoencoderKL that vary here."""

    channels: tuple[int, ...] = (32, 64, 112)
    latent_channels: int = 8
    groups: int = 16

    def to_diffusers(self, side: int, scale: float, shift: float) -> dict[str, object]:
        """config.json of the `vae` folder."""
        depth = len(self.channels)
        return {
            "_class_name": "AutoencoderKL",
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ["DownEncoderBlock2D"] * depth,
            "up_block_types": ["UpDecoderBlock2D"] * depth,
            "block_out_channels": list(self.channels),
            "layers_per_block": 1,
            "latent_channels": self.latent_channels,
            "norm_num_groups": self.groups,
            "sample_size": side,
            "scaling_factor": scale,
            "shift_factor": shift,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "mid_block_add_attention": False,
        }


class Resnet(nn.Module):
    """Two normalised convolutions with a shortcut."""

    def __init__(self, before: int, after: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, before, eps=1e-6)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, after, eps=1e-6)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(before, after, 1) if before != after else None

    def forward(self, x: Tensor) -> Tensor:
        """Same height and width."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = h + (x if self.conv_shortcut is None else self.conv_shortcut(x))
        return out


class Resampler(nn.Module):
    """Halve or double the resolution around a convolution."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1 if up else 0)

    def forward(self, x: Tensor) -> Tensor:
        """Twice or half the height and width."""
        around = F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else F.pad(x, (0, 1, 0, 1))
        out: Tensor = self.conv(around)
        return out


class Level(nn.Module):
    """The resnets of one resolution, then the change to the next."""

    def __init__(self, before: int, after: int, groups: int, depth: int, resample: str) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(before if k == 0 else after, after, groups) for k in range(depth))
        self.downsamplers = nn.ModuleList([Resampler(after, up=False)]) if resample == "down" else None
        self.upsamplers = nn.ModuleList([Resampler(after, up=True)]) if resample == "up" else None

    def forward(self, x: Tensor) -> Tensor:
        """All resnets, then the resampler."""
        for block in (*self.resnets, *(self.downsamplers or ()), *(self.upsamplers or ())):
            x = block(x)
        return x


class Middle(nn.Module):
    """Two resnets at the lowest resolution."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(channels, channels, groups) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        for block in self.resnets:
            x = block(x)
        return x


class Encoder(nn.Module):
    """Images to the mean and log variance of their latents."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.channels, config.groups
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Level(widths[max(k - 1, 0)], width, groups, 1, "down" if k < last else "none")
            for k, width in enumerate(widths)
        )
        self.mid_block = Middle(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Mean and log variance, stacked on the channels."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        moments: Tensor = self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))
        return moments


class Decoder(nn.Module):
    """Latents to images."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.channels[::-1], config.groups
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], groups)
        self.up_blocks = nn.ModuleList(
            Level(widths[max(k - 1, 0)], width, groups, 2, "up" if k < last else "none")
            for k, width in enumerate(widths)
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Images in about [-1, 1]."""
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        images: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return images


class Autoencoder(nn.Module):
    """diffusers' AutoencoderKL without attention. Images are (batch, 3, side, side) in [-1, 1]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def distribution(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents, (batch, latent channels, side / 4, side / 4)."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)
