"""What the formulas of the edits have in common."""

from __future__ import annotations

from studio.core.late import torch
from studio.vision.scenes import SIDE, coordinates, cover, hsv, length


def pixelwise(p: torch.Tensor) -> torch.Tensor:
    """Numbers (batch,) beside images (batch, 3, h, w)."""
    return p[:, None, None, None]


def maps(p: torch.Tensor) -> torch.Tensor:
    """Numbers (batch,) beside maps (batch, h, w)."""
    return p[:, None, None]


def between(p: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """A number in [0, 1] as one from low to high."""
    return low + (high - low) * p


def either(p: torch.Tensor, low: tuple[float, float], high: tuple[float, float]) -> torch.Tensor:
    """The lower half of [0, 1] covers one range, the upper half another, with nothing weak in between."""
    return torch.where(p < 0.5, between(p * 2, *low), between(p * 2 - 1, *high))


def luminance(image: torch.Tensor) -> torch.Tensor:
    """The weight of each pixel's light to the eye, (batch, 1, h, w) of (batch, 3, h, w)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=image.device)
    return (image * weights[None, :, None, None]).sum(1, keepdim=True)


def mix(image: torch.Tensor, other: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """The way from image to other, by amounts (batch,)."""
    return image + (other - image) * pixelwise(amount)


def paint(hue: torch.Tensor, saturation: float = 0.8, value: float = 0.95) -> torch.Tensor:
    """Colours (batch, 3) of a hue."""
    return hsv(hue, torch.full_like(hue, saturation), torch.full_like(hue, value))


def rgb(image: torch.Tensor, red: float, green: float, blue: float) -> torch.Tensor:
    """One colour beside images."""
    return torch.tensor([red, green, blue], device=image.device)[None, :, None, None]


def white(image: torch.Tensor) -> torch.Tensor:
    """White, (batch, 3)."""
    return torch.ones_like(image[:, :, 0, 0])


def xy(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates of the pixels, each (batch, h, w)."""
    x, y = coordinates(image.device, image.shape[-1])
    count = image.shape[0]
    return x.expand(count, -1, -1), y.expand(count, -1, -1)


def sample(image: torch.Tensor, x: torch.Tensor, y: torch.Tensor, padding: str = "reflection") -> torch.Tensor:
    """Read image at source coordinates x, y in [0, 1], bilinear."""
    grid = torch.stack([x * 2 - 1, y * 2 - 1], -1)
    return torch.nn.functional.grid_sample(image, grid, padding_mode=padding, align_corners=False)


def gaussian(image: torch.Tensor, sigma: torch.Tensor, reach: int = 12) -> torch.Tensor:
    """Blur with one sigma in pixels per image, edges replicated, as two matrix products."""
    side = image.shape[-1]
    target = torch.arange(side, device=image.device).float()
    source = torch.arange(-reach, side + reach, device=image.device).float()
    kernel = torch.exp(-((source[None, None] - target[None, :, None]) ** 2) / (2 * sigma[:, None, None] ** 2))
    kernel = kernel / kernel.sum(-1, keepdim=True)
    matrix = kernel[..., reach:-reach].clone()
    matrix[..., 0] += kernel[..., :reach].sum(-1)
    matrix[..., -1] += kernel[..., -reach:].sum(-1)
    return torch.einsum("bij,bcjk,blk->bcil", matrix, image, matrix)


def slopes(image: torch.Tensor) -> torch.Tensor:
    """Length of the central difference at each pixel and channel."""
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    return torch.sqrt(across**2 + down**2 + 1e-6)


def stars(device: torch.device, count: int, seed: int) -> torch.Tensor:
    """Opacity of a fixed set of small discs, (count, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(count, 2, generator=generator).to(device)
    radius = (torch.rand(count, generator=generator) * 0.008 + 0.010).to(device)
    x, y = coordinates(device)
    away = length(x[None] - place[:, 0, None, None], y[None] - place[:, 1, None, None])
    return cover(away - radius[:, None, None])


def step(distance: torch.Tensor, width: float = SIDE) -> torch.Tensor:
    """Antialiased opacity of what is positive."""
    return (distance * width + 0.5).clamp(0, 1)
