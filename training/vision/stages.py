"""The stages of training, each a function from data and earlier stages to a trained module."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from studio.vision.latents import strip
from training.vision.autoencoder import Autoencoder
from training.vision.basis import Routed, relation_encoder
from training.vision.data import TRANSFORM_IDS, Bank, Codec, Latents, as_floats
from training.vision.editor import TEXT_TOKENS, Editor, Instructions, Prompt, compile_parts, precision
from training.vision.fit import Fitted, Group, fit
from training.vision.settings import Settings
from training.vision.transformer import Transformer
from training.weights import State

# Autoencoder ----------------------------------------------------------------------------------------------------------


def train_autoencoder(bank: Bank, settings: Settings, device: torch.device) -> tuple[Codec, Fitted]:
    """Reconstruct pictures before and after edits; a whisper of KL keeps the latents near unit size."""
    torch.manual_seed(settings.seed)
    net = Autoencoder(settings.autoencoder).to(device)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs do not know it
    compile_parts([net.encoder, net.decoder], settings.compiled)
    images = (bank.before.flatten(0, 1), bank.after.flatten(0, 1))

    def loss_at(progress: float, step: int) -> Tensor:
        half = settings.batch // 2
        chosen = [part[torch.randint(0, len(part), (half,), device=device)] for part in images]
        return _reconstruction_loss(net, as_floats(torch.cat(chosen)) * 2 - 1)

    group = Group.of(net.parameters(), settings.autoencoder_rate)
    fitted = fit("autoencoder", [group], loss_at, settings.autoencoder_seconds, settings.max_steps, decay=0.998)
    trained, net = net, Autoencoder(settings.autoencoder).to(device)  # one that is not compiled
    net.load_state_dict(trained.state_dict())
    net.eval().requires_grad_(False)
    sample = torch.cat([part[:: max(1, len(part) // 2048)] for part in images])
    latents = Codec(net, 1.0, 0.0).encode(sample)
    return Codec(net, float(1 / latents.std()), float(latents.mean())), fitted


def _reconstruction_loss(net: Autoencoder, images: Tensor) -> Tensor:
    with precision(images.device):
        mean, log_variance = net.distribution(images.to(memory_format=torch.channels_last))
        latents = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        again: Tensor = net.decoder(latents)
    again, mean, log_variance = again.float(), mean.float(), log_variance.float()
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    edges = sum((again.diff(dim=axis) - images.diff(dim=axis)).abs().mean() for axis in (2, 3))
    gap = again - images
    return gap.abs().mean() + 4 * (gap**2).mean() + 0.5 * edges + 2e-5 * kl


# Relation encoder -----------------------------------------------------------------------------------------------------


class _Naming(nn.Module):
    """What the encoder is trained with: a classifier of edits and the temperature of the retrieval."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, len(TRANSFORM_IDS) + 1)
        self.log_scale = nn.Parameter(torch.tensor(2.6))


def train_encoder(
    bank: Bank, settings: Settings, device: torch.device
) -> tuple[CLIPVisionModelWithProjection, Fitted, float]:
    """Pairs with the same edit and numbers should embed alike (CLIP's symmetric loss), and name their edits.

    Returns the encoder, the fit and the last batch's top-1 retrieval.
    """
    torch.manual_seed(settings.seed)
    encoder = relation_encoder(bank.before.shape[-1]).to(device)
    naming = _Naming(encoder.config.projection_dim).to(device)
    compile_parts(encoder.vision_model.encoder.layers, settings.compiled)
    retrieved = torch.zeros(())

    def loss_at(progress: float, step: int) -> Tensor:
        count = min(3 * settings.batch, len(bank))
        groups = torch.randperm(len(bank), device=device)[:count]
        members = bank.two_members(count)
        pairs = torch.cat([_pair(bank, groups, member) for member in members])
        with precision(device):
            embedded = encoder(pixel_values=pairs).image_embeds.float()
        nonlocal retrieved
        loss, retrieved = _naming_loss(naming, embedded, bank.tasks[groups])
        return loss

    group = Group.of([*encoder.parameters(), *naming.parameters()], settings.encoder_rate, 0.02)
    fitted = fit("encoder", [group], loss_at, settings.encoder_seconds, settings.max_steps)
    return encoder.eval(), fitted, float(retrieved)


def _pair(bank: Bank, groups: Tensor, members: Tensor) -> Tensor:
    images = (bank.before[groups, members], bank.after[groups, members])
    return torch.cat([as_floats(part) for part in images], 1) * 2 - 1


def _naming_loss(naming: _Naming, embedded: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
    one, two = F.normalize(embedded, dim=1).chunk(2)
    similarity = one @ two.T * naming.log_scale.exp().clamp(max=60)
    right = torch.arange(len(one), device=one.device)
    contrast = (F.cross_entropy(similarity, right) + F.cross_entropy(similarity.T, right)) / 2
    names = torch.zeros(len(tasks), len(TRANSFORM_IDS) + 1, device=one.device).scatter_(1, tasks, 1.0)
    names[:, 0] = 0  # "none" fills the second place of single edits and is no edit
    guess = naming.head(F.layer_norm(embedded, embedded.shape[1:]))
    named = F.binary_cross_entropy_with_logits(guess, names.repeat(2, 1))
    return contrast + 5 * named, (similarity.argmax(1) == right).float().mean().detach()


# Base editor ----------------------------------------------------------------------------------------------------------


def train_base(
    bank: Bank, latents: Latents, settings: Settings, device: torch.device
) -> tuple[Transformer, Instructions, Fitted]:
    """Edit b as an instruction says. It never sees a pair that shows its edit.

    First with b alone as context; in the last third beside a pair of another edit, so that the strip of an analogy is
    nothing new to it. One in eight instructions is empty, and then b' = b.
    """
    torch.manual_seed(settings.seed)
    net = Transformer(settings.transformer).initialise().to(device)
    told = Instructions(settings.transformer.text_width, settings.transformer.pooled_width).to(device)
    compile_parts(net.blocks(), settings.compiled)
    editor = Editor(net)

    def loss_at(progress: float, step: int) -> Tensor:
        beside = progress > 0.65 or step in (1, 3)  # the early ones compile that shape before the clock starts
        count = settings.batch * (1 if beside else 2)
        groups, members = bank.groups(count), torch.randint(0, bank.members, (count,), device=device)
        b, answer = latents.before[groups, members].float(), latents.after[groups, members].float()
        empty = torch.rand(count, device=device) < 0.12
        tasks = bank.tasks[groups].masked_fill(empty[:, None], 0)
        answer = torch.where(empty[:, None, None, None], b, answer)
        prompt = told(tasks, bank.parameters[groups])
        if not beside:
            return editor.loss(answer, b, prompt)
        other, member = bank.groups(count), torch.randint(0, bank.members, (count,), device=device)
        pair = latents.before[other, member].float(), latents.after[other, member].float()
        return editor.loss(answer, strip(*pair, b), prompt)

    rates = [
        Group.of(net.parameters(), settings.base_rate, 0.01),
        Group.of(told.parameters(), settings.base_rate),
    ]
    fitted = fit("base", rates, loss_at, settings.base_seconds, settings.max_steps)
    return net.eval(), told.eval(), fitted


def empty_prompt(told: Instructions, device: torch.device) -> Prompt:
    """The instruction that says nothing, batch 1."""
    with torch.no_grad():
        text, pooled = told(torch.zeros(1, 2, dtype=torch.long, device=device), torch.zeros(1, 2, 3, device=device))
    assert text.shape[1] == TEXT_TOKENS
    return text, pooled


# LoRWeB and the single LoRAs ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """One contender: a basis with a router, or one ordinary LoRA of rank `adapters * rank`."""

    name: str
    routed: bool
    adapters: int
    rank: int


def kinds(settings: Settings) -> dict[str, Kind]:
    """LoRWeB, and single LoRAs of equal total rank and of equal active rank."""
    adapters, rank = settings.adapters, settings.rank
    return {
        "lorweb": Kind("lorweb", True, adapters, rank),
        "single-total": Kind("single-total", False, adapters, rank),
        "single-active": Kind("single-active", False, 1, rank),
    }


@dataclass(frozen=True, eq=False)
class Foundation:
    """All that is trained before the contenders, and that they share."""

    base: State
    encoder: State
    prompt: Prompt


def build(kind: Kind, ground: Foundation, settings: Settings, device: torch.device) -> Routed:
    """A fresh contender on the trained base."""
    net = Transformer(settings.transformer).to(device)
    net.load_state_dict(ground.base)
    encoder = None
    if kind.routed:
        encoder = relation_encoder().to(device)
        encoder.load_state_dict(ground.encoder)
    scale = settings.basis_scale if kind.routed else 1.0
    return Routed(net, encoder, kind.adapters, kind.rank, scale, settings.key_width).to(device)


def train_contender(
    model: Routed,
    bank: Bank,
    latents: Latents,
    prompt: Prompt,
    settings: Settings,
    seconds: float,
    seed: int,
    name: str,
    restart: float = 1.0,
) -> Fitted:
    """Learn analogies on the frozen base; `restart` scales the rates when training goes on from earlier weights.

    In the second half every other step starts from the model's own first estimate, see `Editor.loss`.
    """
    torch.manual_seed(1000 + seed)
    editor, device = Editor(model.transformer), bank.before.device
    compile_parts(model.transformer.blocks(), settings.compiled)
    if model.encoder is not None:
        compile_parts(model.encoder.vision_model.encoder.layers, settings.compiled)

    def loss_at(progress: float, step: int) -> Tensor:
        groups = bank.groups(settings.batch)
        i, j = bank.two_members(settings.batch)
        images = (bank.before[groups, i], bank.after[groups, i], bank.before[groups, j])
        with precision(device):
            model.route(*(as_floats(part) for part in images))
        a, a2, b = latents.before[groups, i], latents.after[groups, i], latents.before[groups, j]
        own_start = (progress > 0.5 and step % 2 == 0) or step in (1, 3)
        return editor.loss(latents.after[groups, j].float(), strip(a, a2, b).float(), prompt, own_start)

    if model.router is None or model.encoder is None:
        groups = [Group.of(model.basis(), restart * settings.single_rate)]
    else:
        groups = [
            Group.of(model.basis(), restart * settings.basis_rate),
            Group.of(model.router.parameters(), restart * settings.router_rate),
            Group.of(model.encoder.parameters(), restart * settings.tuned_encoder_rate, 0.01),
        ]
    fitted = fit(name, groups, loss_at, seconds, settings.max_steps)
    model.eval()
    return fitted
