"""The flow model at work on latents: velocities, the flow-matching loss, and samples for evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from studio.vision.latents import all_positions, euler, pack, strip, unpack
from training.vision.basis import Routed
from training.vision.data import TRANSFORM_IDS, Codec, as_floats
from training.vision.transformer import Rotation, Transformer, rotation

TEXT_TOKENS = 8
Prompt = tuple[Tensor, Tensor]  # text (batch, TEXT_TOKENS, text width) and pooled (batch, pooled width)


class Instructions(nn.Module):
    """Stands in for the text encoders of FLUX: tokens that say which one or two edits to do, and with which numbers.

    The base editor is trained with it; analogies run on the empty instruction (ids 0), as a picture pair says the rest.
    """

    def __init__(self, text_width: int, pooled_width: int, width: int = 64) -> None:
        super().__init__()
        self.name = nn.Embedding(len(TRANSFORM_IDS) + 1, width)
        self.tokens = TEXT_TOKENS // 2
        hidden = 4 * width
        self.mix = nn.Sequential(nn.Linear(width + 3 * 7, hidden), nn.SiLU())
        self.to_text = nn.Linear(hidden, self.tokens * text_width)
        self.to_pooled = nn.Linear(hidden, pooled_width)

    def forward(self, tasks: Tensor, parameters: Tensor) -> Prompt:
        """Prompt of transform ids (batch, 2) with parameters (batch, 2, 3)."""
        turns = 2 * torch.pi * parameters[..., None] * torch.tensor([1.0, 2.0, 4.0], device=parameters.device)
        numbers = torch.cat([parameters[..., None], turns.sin(), turns.cos()], -1).flatten(2)
        known = (tasks > 0)[..., None]
        hidden = self.mix(torch.cat([self.name(tasks), numbers * known], -1))
        text = self.to_text(hidden).view(len(tasks), 2 * self.tokens, -1)
        return text, self.to_pooled(hidden).sum(1)


@dataclass(frozen=True, eq=False)
class Editor:
    """A transformer that edits latents of b, given context latents and a prompt."""

    net: Transformer
    rotations: dict[tuple[int, ...], Rotation] = field(default_factory=dict)

    def velocity(self, x: Tensor, time: Tensor, context: Tensor, prompt: Prompt) -> Tensor:
        """dx/dt of latents x (batch, channels, h, w) at times (batch,), float32."""
        text, pooled = (part.expand(len(x), *part.shape[1:]) for part in prompt)
        key = (*x.shape[2:], *context.shape[2:])
        if key not in self.rotations:
            self.rotations[key] = rotation(all_positions(x, context, text.shape[1]), self.net.config.axes)
        target = pack(x)
        with precision(x.device):
            out = self.net(torch.cat([target, pack(context)], 1), text, pooled, time, self.rotations[key])
        return unpack(out[:, : target.shape[1]].float(), *x.shape[2:])

    def loss(self, answer: Tensor, context: Tensor, prompt: Prompt, own_start: bool = False) -> Tensor:
        """Flow-matching loss: x_t = (1 - t) x_0 + t noise, the velocity at x_t should lead to `answer`.

        Two in five samples start at pure noise, because a sampler of few steps spends most of its work there. With
        `own_start`, x_0 is the model's own first estimate and t lies where a second step starts: the velocity
        (x_t - answer) / t then corrects the first step instead of assuming it was perfect.
        """
        noise, batch = torch.randn_like(answer), len(answer)
        draw = torch.rand(batch, device=answer.device)
        if own_start:
            with torch.no_grad():
                whole = torch.ones_like(draw)
                start = noise - self.velocity(noise, whole, context, prompt)
            time = 0.3 + 0.5 * draw
        else:
            shifted = 2 * draw / (1 + draw)
            time = torch.where(torch.rand(batch, device=answer.device) < 0.4, torch.ones_like(draw), shifted)
            start = answer
        time = time.clamp(min=0.02)
        t = time[:, None, None, None]
        x = (1 - t) * start + t * noise
        return ((self.velocity(x, time, context, prompt) - (x - answer) / t) ** 2).mean()


def precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where the device is a GPU."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def compile_parts(parts: Iterable[nn.Module], wanted: bool) -> None:
    """Compile modules in place; one that cannot be compiled runs as it is."""
    if wanted:
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.suppress_errors = True
        for part in parts:
            part.compile(dynamic=False)


@dataclass(frozen=True, eq=False)
class AnalogySampler:
    """Answers analogies for `evaluate.measure`; a predictor in the sense of that module."""

    model: Routed
    codec: Codec
    prompt: Prompt
    steps: int
    seed: int = 7
    chunk: int = 512

    @torch.no_grad()
    def __call__(self, a: Tensor, a2: Tensor, b: Tensor, answer: Tensor) -> Tensor:
        """Generated b' of uint8 images; `answer` is not looked at."""
        generator = torch.Generator(a.device).manual_seed(self.seed)
        chunks = zip(*(torch.split(images, self.chunk) for images in (a, a2, b)), strict=True)
        with torch.compiler.set_stance("force_eager"):
            return torch.cat([self._answer(a, a2, b, generator) for a, a2, b in chunks])

    def _answer(self, a: Tensor, a2: Tensor, b: Tensor, generator: torch.Generator) -> Tensor:
        editor = Editor(self.model.transformer)
        za, za2, zb = (self.codec.encode(images) for images in (a, a2, b))
        with precision(a.device):
            self.model.route(as_floats(a), as_floats(a2), as_floats(b))
        noise = torch.randn(zb.shape, generator=generator, device=zb.device)
        context = strip(za, za2, zb)
        ones = torch.ones(len(zb), device=zb.device)
        x = euler(lambda x, t: editor.velocity(x, t * ones, context, self.prompt), noise, self.steps)
        return self.codec.decode(x)


@dataclass(frozen=True, eq=False)
class InstructionSampler:
    """The base editor told the true edit and its numbers: what the frozen weights can draw at all."""

    net: Transformer
    codec: Codec
    text: Tensor
    pooled: Tensor
    steps: int
    seed: int = 7

    @torch.no_grad()
    def __call__(self, a: Tensor, a2: Tensor, b: Tensor, answer: Tensor) -> Tensor:
        """Generated b' of uint8 images; only b is looked at."""
        generator = torch.Generator(b.device).manual_seed(self.seed)
        editor, zb = Editor(self.net), self.codec.encode(b)
        noise = torch.randn(zb.shape, generator=generator, device=zb.device)
        ones = torch.ones(len(zb), device=zb.device)
        with torch.compiler.set_stance("force_eager"):
            x = euler(lambda x, t: editor.velocity(x, t * ones, zb, (self.text, self.pooled)), noise, self.steps)
        return self.codec.decode(x)
