"""LoRWeB in its trainable form: one low-rank pair of rank N r on each listed linear, its channels scaled per sample.

The written form, and everything after training, is `studio.vision.lorweb`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from training.vision.transformer import Transformer


class RoutedLinear(nn.Module):
    """base(x) + scale * sum_i e_i (x A_i) B_i, with the mix e repeated r times along the rank axis.

    `mix` is (batch, N r) or None for an ordinary LoRA; the model sets it before each forward pass.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.mix: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The adapted output; x is (batch, tokens, in) or (batch, in)."""
        low = F.linear(x, self.down)
        if self.mix is not None:
            mix = self.mix.to(low.dtype)
            low = low * (mix[:, None] if low.dim() == 3 else mix)
        adapted: Tensor = self.base(x) + F.linear(low, self.up) * self.scale
        return adapted


def targets(transformer: Transformer) -> dict[str, nn.Linear]:
    """The adapted linears by name: all in the blocks but those of the text stream, whose input is constant here."""
    return {
        name: module
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and "blocks." in name and "add_" not in name and "context" not in name
    }


def adapt(transformer: Transformer, rank: int, scale: float) -> dict[str, RoutedLinear]:
    """Freeze the transformer and put a `RoutedLinear` in the place of each target."""
    transformer.requires_grad_(False)
    routed = {}
    for name, linear in targets(transformer).items():
        parent, leaf = name.rpartition(".")[::2]
        routed[name] = RoutedLinear(linear, rank, scale)
        setattr(transformer.get_submodule(parent), leaf, routed[name])
    return routed


def relation_encoder(side: int = 64) -> CLIPVisionModelWithProjection:
    """A small CLIP vision tower that sees two images at once, six channels."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=160,
            intermediate_size=640,
            num_hidden_layers=4,
            num_attention_heads=5,
            image_size=side,
            patch_size=8,
            num_channels=6,
            projection_dim=128,
        )
    )


def relation_query(encoder: CLIPVisionModelWithProjection, a: Tensor, a2: Tensor, b: Tensor) -> Tensor:
    """z = [E(a, a'), E(b, b)] with each half layer-normed, (batch, 2 * projection); images in [0, 1]."""
    pairs = torch.cat([torch.cat([a, a2], 1), torch.cat([b, b], 1)]) * 2 - 1
    embedded = encoder(pixel_values=pairs).image_embeds.float()
    change, scene = F.layer_norm(embedded, embedded.shape[1:]).chunk(2)
    return torch.cat([change, scene], 1)


class Router(nn.Module):
    """Per-layer keys and query projections: e_l = softmax(P_l z . K_l / sqrt(d)), (layers, batch, N)."""

    def __init__(self, layers: int, adapters: int, key_width: int, query_width: int, gain: float = 2.5) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.randn(layers, adapters, key_width))
        self.to_q = nn.Parameter(torch.randn(layers, key_width, query_width) * gain / math.sqrt(query_width))

    def forward(self, query: Tensor) -> Tensor:
        """Mix of each layer for queries (batch, query width)."""
        at_layer = torch.einsum("lkq,bq->lbk", self.to_q, query)
        logits = torch.einsum("lbk,lnk->lbn", at_layer, self.keys) / math.sqrt(self.keys.shape[2])
        return logits.softmax(-1)


class Routed(nn.Module):
    """A frozen transformer with a LoRWeB basis on it, or with one ordinary LoRA when `encoder` is None."""

    def __init__(
        self,
        transformer: Transformer,
        encoder: CLIPVisionModelWithProjection | None,
        adapters: int = 32,
        rank: int = 4,
        scale: float = 1.0,
        key_width: int = 32,
    ) -> None:
        super().__init__()
        self.transformer, self.encoder, self.adapters, self.rank = transformer, encoder, adapters, rank
        self.layers = adapt(transformer, adapters * rank, scale)
        self.router: Router | None = None
        if encoder is not None:
            width = 2 * encoder.config.projection_dim
            self.router = Router(len(self.layers), adapters, key_width, width)

    def basis(self) -> list[nn.Parameter]:
        """The low-rank factors."""
        return [factor for layer in self.layers.values() for factor in (layer.down, layer.up)]

    def route(self, a: Tensor, a2: Tensor, b: Tensor) -> Tensor | None:
        """Set the mix from images in [0, 1] and return it, (layers, batch, N); None for an ordinary LoRA."""
        if self.router is None or self.encoder is None:
            return None
        mix: Tensor = self.router(relation_query(self.encoder, a, a2, b))
        for layer, part in zip(self.layers.values(), mix.repeat_interleave(self.rank, 2), strict=True):
            layer.mix = part
        return mix
