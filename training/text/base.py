"""Training the base: next-token loss on a mix of streams.

Real simple stories are scarce here (half a million tokens), so the mix decides how well the base tells them: old
story books regularise best, and the share of TinyStories is kept so low that it is read about thirty times, no more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.text.model import Shape, StackedLlama

OnStep = Callable[[int, str], None]
MIX: Mapping[str, float] = {"tiny": 0.14, "stories": 0.24, "books": 0.36, "knowledge": 0.26}


@dataclass(frozen=True, slots=True)
class BaseConfig:
    """How one base is trained; `batch` counts windows of `window` tokens."""

    shape: Shape = field(default_factory=Shape)
    steps: int = 3500
    batch: int = 128
    window: int = 256
    rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 0.5
    dropout: float = 0.15
    seed: int = 0
    mix: Mapping[str, float] = field(default_factory=lambda: dict(MIX))


def device() -> str:
    """The GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def half() -> torch.autocast:
    """bfloat16 on a GPU; on a CPU, where it is mostly slow, only inside a caller's own autocast."""
    return torch.autocast(device(), torch.bfloat16, enabled=device() == "cuda" or torch.is_autocast_enabled("cpu"))


def windows(stream: Tensor, starts: Tensor, length: int) -> Tensor:
    """Token windows (len(starts), length + 1) of a stream."""
    return stream[starts[:, None] + torch.arange(length + 1, device=stream.device)].long()


@torch.no_grad()
def token_nll(model: StackedLlama, stream: Tensor, low: float = 0.0, high: float = 1.0, count: int = 128) -> float:
    """Mean negative log-likelihood per token (nats) over evenly spaced full windows of a part of the stream."""
    model.eval()
    length = min(model.shape.max_position_embeddings, len(stream) - 2)
    starts = torch.linspace(low * len(stream), high * len(stream) - length - 2, count, device=stream.device).long()
    losses = []
    for chunk in torch.split(windows(stream, starts.clamp(min=0), length), 32):
        with half():
            logits = model(chunk[:, :-1])
        losses.append(F.cross_entropy(logits.float().flatten(0, 1), chunk[:, 1:].flatten(), reduction="none"))
    model.train()
    return torch.cat(losses).mean().item()


def cosine(step: int, steps: int, warmup: int, floor: float) -> float:
    """Linear warm-up, then a cosine from 1 to `floor`."""
    return min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _loss(model: StackedLlama, batch: Tensor) -> Tensor:
    return F.cross_entropy(model(batch[:, :-1]).float().flatten(0, 1), batch[:, 1:].flatten())


def _drawn(stream: Tensor, n: int, length: int, draw: torch.Generator) -> Tensor:
    starts = torch.randint(len(stream) - length - 1, (n,), generator=draw, device=stream.device)
    return windows(stream, starts, length)


def _optimizer(model: StackedLlama, config: BaseConfig) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.95), fused=device() == "cuda")


def train(
    config: BaseConfig,
    streams: Mapping[str, Tensor],
    valid: Tensor,
    on_step: OnStep | None = None,
) -> tuple[StackedLlama, dict[str, Any]]:
    """A trained model and its log.

    The last step's weights are kept; the log's validation losses on the first half of `valid` are for watching only.
    """
    torch.manual_seed(config.seed)
    started = time.perf_counter()
    model = StackedLlama(config.shape, config.dropout).to(device())
    optimizer = _optimizer(model, config)
    loss_of = torch.compile(_loss) if device() == "cuda" else _loss
    counts = {name: round(config.batch * share) for name, share in config.mix.items()}
    draw = torch.Generator(device()).manual_seed(config.seed)
    curve = []
    for step in range(config.steps):
        batch = torch.cat([_drawn(streams[name], n, config.window, draw) for name, n in counts.items()])
        for group in optimizer.param_groups:
            group["lr"] = config.rate * cosine(step, config.steps, min(config.warmup, config.steps), 0.05)
        with half():
            loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 500 == 499 or step == config.steps - 1:
            curve.append((step + 1, round(loss.item(), 4), round(token_nll(model, valid, high=0.5), 4)))
            if on_step:
                on_step(step + 1, f"loss {curve[-1][1]}, valid {curve[-1][2]}")
    model.dropout = 0.0
    log = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "curve": curve,
        "valid_nll_first_half": token_nll(model, valid, high=0.5),
        "valid_nll": token_nll(model, valid, low=0.5),
        "own_nll": {name: round(token_nll(model, stream), 3) for name, stream in streams.items()},
        "seconds": round(time.perf_counter() - started, 1),
    }
    return model, log
