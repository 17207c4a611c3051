"""A Llama in plain torch that runs many LoRA adapters at once, one slice of the batch for each.

Weights and names are those of transformers' `LlamaForCausalLM` (rotary embeddings, RMSNorm, SwiGLU, tied embeddings),
so a state dict moves between the two unchanged; `tests/unit/test_training_text.py` compares the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""By module: A (stack, rank, d_in) and B (stack, d_out, rank), scaling inside B."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The part of a Llama configuration that is ours to choose."""

    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    vocab_size: int = 4096
    max_position_embeddings: int = 256

    def config(self) -> dict[str, Any]:
        """The `config.json` that transformers reads."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **asdict(self),
            "num_key_value_heads": self.num_attention_heads,
            "head_dim": self.hidden_size // self.num_attention_heads,
            "hidden_act": "silu",
            "rms_norm_eps": RMS_EPS,
            "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 0,
            "dtype": "float16",
        }


RMS_EPS = 1e-5
ROPE_THETA = 10000.0


class StackedLinear(nn.Linear):
    """A linear layer; with `factors` set, slice i of the batch also passes through adapter i."""

    factors: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, time, d_in) to (batch, time, d_out)."""
        y = F.linear(x, self.weight)
        if self.factors is None:
            return y
        down, up = (factor.to(x.dtype).transpose(1, 2) for factor in self.factors)
        low = torch.bmm(x.reshape(len(down), -1, x.shape[-1]), down)
        return y + torch.bmm(low, up).view(y.shape)


class Norm(nn.Module):
    """RMSNorm, computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        h = x.float()
        return self.weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + RMS_EPS)).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of x (batch, heads, time, head width)."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, self.heads = shape.hidden_size, shape.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (StackedLinear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (batch, time, width)."""
        batch, time, _ = x.shape
        q, k, v = (
            project(x).view(batch, time, self.heads, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        mixed: Tensor = self.o_proj(y.transpose(1, 2).reshape(x.shape))
        return mixed


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, inner = shape.hidden_size, shape.intermediate_size
        self.gate_proj, self.up_proj = StackedLinear(width, inner, bias=False), StackedLinear(width, inner, bias=False)
        self.down_proj = StackedLinear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, time, width)."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """One pre-norm layer; `dropout` acts on what each half adds."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(shape), FeedForward(shape)
        self.input_layernorm, self.post_attention_layernorm = Norm(shape.hidden_size), Norm(shape.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, dropout: float) -> Tensor:
        """x (batch, time, width)."""
        x = x + F.dropout(self.self_attn(self.input_layernorm(x), cos, sin), dropout, self.training)
        return x + F.dropout(self.mlp(self.post_attention_layernorm(x)), dropout, self.training)


class Decoder(nn.Module):
    """Embedding, layers, last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.num_hidden_layers))
        self.norm = Norm(shape.hidden_size)


class StackedLlama(nn.Module):
    """The base model; `adapt` attaches a stack of adapters, and then the batch is read as that many equal slices."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape, self.dropout, self.model = shape, dropout, Decoder(shape)
        width = shape.hidden_size // shape.num_attention_heads
        frequencies = ROPE_THETA ** -(torch.arange(0, width, 2).float() / width)
        angles = torch.outer(torch.arange(shape.max_position_embeddings).float(), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        residual_std = 0.02 / (2 * shape.num_hidden_layers) ** 0.5
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                nn.init.normal_(
                    weight, std=residual_std if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                )

    def hidden(self, ids: Tensor) -> Tensor:
        """Last hidden states (batch, time, width) of token ids (batch, time)."""
        x = F.dropout(self.model.embed_tokens(ids), self.dropout, self.training)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        cos, sin = (table[: ids.shape[1]].to(x.dtype) for table in (self.cos, self.sin))
        for layer in self.model.layers:
            x = layer(x, cos, sin, self.dropout)
        states: Tensor = self.model.norm(x)
        return states

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (batch, time, vocabulary) of token ids (batch, time)."""
        return F.linear(self.hidden(ids), self.model.embed_tokens.weight)

    def linears(self) -> dict[str, StackedLinear]:
        """The seven adapted modules of every layer, by dotted path."""
        return {name: module for name, module in self.named_modules() if isinstance(module, StackedLinear)}

    def adapt(self, factors: Factors | None) -> None:
        """Attach a stack of adapters, or none."""
        for name, module in self.linears().items():
            module.factors = factors[name] if factors else None
