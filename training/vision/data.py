"""The training data: drawn by the world once, kept on the device as bytes and as latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from studio.vision import world
from training.vision.autoencoder import Autoencoder
from training.vision.settings import Settings

TRANSFORM_IDS = {name: index + 1 for index, name in enumerate(world.EDITS)}  # 0 is "none"


def as_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8."""
    return (images * 255).round().to(torch.uint8)


def as_floats(images: Tensor) -> Tensor:
    """uint8 images in [0, 1]."""
    return images.float() / 255


@dataclass(frozen=True, eq=False)
class Bank:
    """Groups of scenes before and after one edit, (groups, members, 3, side, side) uint8."""

    before: Tensor
    after: Tensor
    tasks: Tensor  # (groups, 2) transform ids
    parameters: Tensor  # (groups, 2, 3), unused ones zero

    def __len__(self) -> int:
        return self.before.shape[0]

    @property
    def members(self) -> int:
        """Scenes per group."""
        return self.before.shape[1]

    def groups(self, count: int) -> Tensor:
        """Random group numbers on the bank's device."""
        return torch.randint(0, len(self), (count,), device=self.before.device)

    def two_members(self, count: int) -> tuple[Tensor, Tensor]:
        """Two different member numbers, `count` times."""
        first = torch.randint(0, self.members, (count,), device=self.before.device)
        return first, (first + torch.randint(1, self.members, (count,), device=self.before.device)) % self.members


@dataclass(frozen=True, eq=False)
class Latents:
    """Normalised latents of a bank's images, (groups, members, channels, side / 4, side / 4)."""

    before: Tensor
    after: Tensor


@torch.no_grad()
def draw_bank(amounts: Settings, seed: int, device: torch.device) -> Bank:
    """As many groups of every task of training as the settings say."""
    generator, members = torch.Generator(device).manual_seed(seed), amounts.members
    plan: list[tuple[world.Task, int]] = [((name,), amounts.groups) for name in world.SEEN]
    plan += [(pair, amounts.pair_groups) for pair in world.SEEN_PAIRS]
    plan += [(pair, amounts.wide_groups) for pair in world.WIDE_PAIRS if amounts.wide_groups]
    plan += [((name,), amounts.region_groups) for name in world.REGIONAL if amounts.region_groups]
    before, after, tasks, parameters = [], [], [], []
    for task, count in plan:
        batch = world.draw(task, count, members, generator)
        used = torch.tensor([[world.EDITS[name].parameters for name in (*task, *task)[:2]]], device=device)
        before.append(as_bytes(batch.before))
        after.append(as_bytes(batch.after))
        ids = [TRANSFORM_IDS[name] for name in task] + [0] * (2 - len(task))
        tasks.append(torch.tensor([ids], device=device).expand(count, 2))
        parameters.append(batch.parameters * (torch.arange(3, device=device) < used[..., None]))
    return Bank(torch.cat(before), torch.cat(after), torch.cat(tasks), torch.cat(parameters))


@dataclass(frozen=True, eq=False)
class Codec:
    """A trained autoencoder with the normalisation of its latents: (z - shift) * scale has mean 0 and deviation 1."""

    net: Autoencoder
    scale: float
    shift: float

    @torch.no_grad()
    def encode(self, images: Tensor, chunk: int = 2048) -> Tensor:
        """Normalised latents of uint8 or float images (n, 3, side, side)."""
        return torch.cat([self._encode(part) for part in torch.split(images, chunk)])

    def _encode(self, images: Tensor) -> Tensor:
        pixels = as_floats(images) if images.dtype == torch.uint8 else images
        return (self.net.distribution(pixels * 2 - 1)[0] - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor, chunk: int = 2048) -> Tensor:
        """Images in [0, 1] of normalised latents."""
        parts = [self.net.decoder(part / self.scale + self.shift) for part in torch.split(latents, chunk)]
        return torch.cat([(part / 2 + 0.5).clamp(0, 1) for part in parts])


def encode_bank(bank: Bank, codec: Codec) -> Latents:
    """All latents of a bank, float16 on a GPU."""
    kind = torch.float16 if bank.before.is_cuda else torch.float32

    def encode(images: Tensor) -> Tensor:
        flat = torch.cat([codec.encode(part).to(kind) for part in torch.split(images.flatten(0, 1), 2048)])
        return flat.view(*images.shape[:2], *flat.shape[1:])

    return Latents(encode(bank.before), encode(bank.after))
