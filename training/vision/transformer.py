"""The FLUX.1-Kontext transformer in plain torch, with diffusers' tensor names and values.

Training needs this so that it runs where diffusers is not installed; `tests/unit/test_vision_nets.py` holds it equal to
`diffusers.FluxTransformer2DModel`. Only what the embedded model uses is here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rotation = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """The fields of diffusers' FluxTransformer2DModel that vary here; channels count a packed 2 x 2 of latents."""

    channels: int = 32
    double_blocks: int = 1
    single_blocks: int = 7
    heads: int = 4
    head_width: int = 64
    text_width: int = 64
    pooled_width: int = 64
    axes: tuple[int, int, int] = (16, 24, 24)

    @property
    def width(self) -> int:
        """Width of the token stream."""
        return self.heads * self.head_width

    def to_diffusers(self) -> dict[str, object]:
        """config.json of the `transformer` folder."""
        return {
            "_class_name": "FluxTransformer2DModel",
            "patch_size": 1,
            "in_channels": self.channels,
            "num_layers": self.double_blocks,
            "num_single_layers": self.single_blocks,
            "attention_head_dim": self.head_width,
            "num_attention_heads": self.heads,
            "joint_attention_dim": self.text_width,
            "pooled_projection_dim": self.pooled_width,
            "guidance_embeds": False,
            "axes_dims_rope": list(self.axes),
        }


def rotation(ids: Tensor, axes: Sequence[int], theta: float = 10000.0) -> Rotation:
    """Cosines and sines (tokens, head width) of the rotary embedding of positions (tokens, 3)."""
    angles = []
    for axis, width in enumerate(axes):
        rate = theta ** (-torch.arange(0, width, 2, dtype=torch.float64, device=ids.device) / width)
        angles.append(torch.outer(ids[:, axis].double(), rate).repeat_interleave(2, dim=1))
    angle = torch.cat(angles, 1)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn neighbouring pairs of channels of x (batch, tokens, heads, head width)."""
    cos, sin = by[0][None, :, None], by[1][None, :, None]
    real, imaginary = torch.unflatten(x, -1, (-1, 2)).unbind(-1)
    turned = torch.stack([-imaginary, real], -1).flatten(3)
    return (x.float() * cos + turned.float() * sin).to(x.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention of (batch, tokens, heads, width) tensors; returns (batch, tokens, heads * width)."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(1, 2).flatten(2)


def normalise(x: Tensor) -> Tensor:
    """Layer norm without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Projection(nn.Module):
    """linear, SiLU, linear."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(before, after)
        self.linear_2 = nn.Linear(after, after)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, before) to (batch, after)."""
        projected: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return projected


class Conditioning(nn.Module):
    """One vector from the time and the pooled prompt."""

    def __init__(self, width: int, pooled_width: int) -> None:
        super().__init__()
        self.timestep_embedder = Projection(256, width)
        self.text_embedder = Projection(pooled_width, width)

    def forward(self, time: Tensor, pooled: Tensor) -> Tensor:
        """(batch, width) of times (batch,) in [0, 1] and pooled prompts."""
        rate = torch.exp(-math.log(10000) * torch.arange(128, device=time.device, dtype=torch.float32) / 128)
        angle = 1000 * time.float()[:, None] * rate[None]
        waves = torch.cat([angle.cos(), angle.sin()], 1).to(pooled.dtype)
        conditioning: Tensor = self.timestep_embedder(waves) + self.text_embedder(pooled)
        return conditioning


class Modulation(nn.Module):
    """Shifts, scales and gates from the conditioning vector."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)

    def forward(self, conditioning: Tensor) -> tuple[Tensor, ...]:
        """`parts` tensors (batch, 1, width)."""
        vectors: Tensor = self.linear(F.silu(conditioning))
        return vectors[:, None].chunk(self.parts, dim=2)


class Attention(nn.Module):
    """Queries, keys and values of one stream; the double block adds a second stream and output projections."""

    def __init__(self, config: TransformerConfig, double: bool) -> None:
        super().__init__()
        width, head = config.width, config.head_width
        self.heads = config.heads
        self.norm_q, self.norm_k = nn.RMSNorm(head, eps=1e-6), nn.RMSNorm(head, eps=1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        if double:
            self.to_out = nn.ModuleList([nn.Linear(width, width)])
            self.norm_added_q, self.norm_added_k = nn.RMSNorm(head, eps=1e-6), nn.RMSNorm(head, eps=1e-6)
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(width, width) for _ in range(3))
            self.to_add_out = nn.Linear(width, width)

    def image(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of the main stream, (batch, tokens, heads, head width)."""
        query, key, value = (f(x).unflatten(-1, (self.heads, -1)) for f in (self.to_q, self.to_k, self.to_v))
        return self.norm_q(query), self.norm_k(key), value

    def text(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same for the text stream of a double block."""
        projections = (self.add_q_proj, self.add_k_proj, self.add_v_proj)
        query, key, value = (f(x).unflatten(-1, (self.heads, -1)) for f in projections)
        return self.norm_added_q(query), self.norm_added_k(key), value


class Gelu(nn.Module):
    """A linear layer and a tanh-approximated GELU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.proj = nn.Linear(before, after)

    def forward(self, x: Tensor) -> Tensor:
        """The activated projection."""
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Four times as wide in the middle; the empty place is diffusers' dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Gelu(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        out: Tensor = self.net(x)
        return out


class DoubleBlock(nn.Module):
    """Image and text streams with their own weights, attending together."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm1, self.norm1_context = Modulation(config.width, 6), Modulation(config.width, 6)
        self.attn = Attention(config, double=True)
        self.ff, self.ff_context = FeedForward(config.width), FeedForward(config.width)

    def forward(self, image: Tensor, text: Tensor, conditioning: Tensor, positions: Rotation) -> tuple[Tensor, Tensor]:
        """The two streams, image first."""
        shift, scale, gate, *late = self.norm1(conditioning)
        text_shift, text_scale, text_gate, *text_late = self.norm1_context(conditioning)
        of_text = self.attn.text(normalise(text) * (1 + text_scale) + text_shift)
        of_image = self.attn.image(normalise(image) * (1 + scale) + shift)
        query, key, value = (torch.cat(pair, 1) for pair in zip(of_text, of_image, strict=True))
        mixed = attend(rotate(query, positions), rotate(key, positions), value)
        text_mixed, image_mixed = mixed[:, : text.shape[1]], mixed[:, text.shape[1] :]
        image = image + gate * self.attn.to_out[0](image_mixed)
        text = text + text_gate * self.attn.to_add_out(text_mixed)
        image = image + late[2] * self.ff(normalise(image) * (1 + late[1]) + late[0])
        text = text + text_late[2] * self.ff_context(normalise(text) * (1 + text_late[1]) + text_late[0])
        return image, text


class SingleBlock(nn.Module):
    """One stream of text and image tokens; attention and feed-forward side by side."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = Modulation(config.width, 3)
        self.proj_mlp = nn.Linear(config.width, 4 * config.width)
        self.proj_out = nn.Linear(5 * config.width, config.width)
        self.attn = Attention(config, double=False)

    def forward(self, tokens: Tensor, conditioning: Tensor, positions: Rotation) -> Tensor:
        """Same shape."""
        shift, scale, gate = self.norm(conditioning)
        x = normalise(tokens) * (1 + scale) + shift
        query, key, value = self.attn.image(x)
        mixed = attend(rotate(query, positions), rotate(key, positions), value)
        wide = F.gelu(self.proj_mlp(x), approximate="tanh")
        out: Tensor = tokens + gate * self.proj_out(torch.cat([mixed, wide], 2))
        return out


class Transformer(nn.Module):
    """diffusers' FluxTransformer2DModel: velocity of packed latents from time, prompt and context tokens."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.time_text_embed = Conditioning(config.width, config.pooled_width)
        self.context_embedder = nn.Linear(config.text_width, config.width)
        self.x_embedder = nn.Linear(config.channels, config.width)
        self.transformer_blocks = nn.ModuleList(DoubleBlock(config) for _ in range(config.double_blocks))
        self.single_transformer_blocks = nn.ModuleList(SingleBlock(config) for _ in range(config.single_blocks))
        self.norm_out = Modulation(config.width, 2)
        self.proj_out = nn.Linear(config.width, config.channels)

    def forward(self, tokens: Tensor, text: Tensor, pooled: Tensor, time: Tensor, positions: Rotation) -> Tensor:
        """Velocity of every image token.

        tokens (batch, n, channels), text (batch, m, text width), pooled (batch, pooled width), time (batch,) in [0, 1],
        positions from `rotation` for m + n tokens, text first.
        """
        conditioning = self.time_text_embed(time, pooled)
        image, text = self.x_embedder(tokens), self.context_embedder(text)
        for block in self.transformer_blocks:
            image, text = block(image, text, conditioning, positions)
        stream = torch.cat([text, image], 1)
        for block in self.single_transformer_blocks:
            stream = block(stream, conditioning, positions)
        scale, shift = self.norm_out(conditioning)
        velocity: Tensor = self.proj_out(normalise(stream[:, text.shape[1] :]) * (1 + scale) + shift)
        return velocity

    def blocks(self) -> list[nn.Module]:
        """All blocks in order."""
        return [*self.transformer_blocks, *self.single_transformer_blocks]

    def initialise(self) -> Transformer:
        """Start as the identity of the token stream (adaLN-zero, Peebles & Xie 2023), with narrow weights elsewhere."""
        for name, weight in self.named_parameters():
            if weight.dim() != 2:
                continue
            if ".norm" in name or name.startswith(("norm_out", "proj_out")):
                nn.init.zeros_(weight)
            elif "embed" in name:
                nn.init.xavier_uniform_(weight)
            else:
                nn.init.normal_(weight, std=0.02 if weight.shape[1] >= 256 else 1 / math.sqrt(weight.shape[1]))
        return self
