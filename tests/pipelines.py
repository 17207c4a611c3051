"""Tiny random diffusers pipelines, laid out as the real ones are, and random adapters for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from diffusers import (
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from studio.core.adapter import Adapter, LoraModule, in_memory_module
from studio.formats.modules.names import canonical

COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "v_proj", "out_proj", "conv1", "ff.net.0.proj")


def stable_diffusion() -> StableDiffusionPipeline:
    """Stable Diffusion 1.5's layout, 8 channels wide."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=2,
        cross_attention_dim=16,
        attention_head_dim=2,
        sample_size=8,
    )
    parts = {"vae": None, "tokenizer": None, "scheduler": None, "safety_checker": None, "feature_extractor": None}
    return StableDiffusionPipeline(
        unet=unet, text_encoder=CLIPTextModel(_text()), requires_safety_checker=False, **parts
    )


def sdxl() -> StableDiffusionXLPipeline:
    """SDXL's layout with two transformer layers a block; the context keeps its width, which tells SDXL from others."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8, 8),
        norm_num_groups=2,
        cross_attention_dim=2048,
        attention_head_dim=2,
        transformer_layers_per_block=(1, 2, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        sample_size=8,
    )
    encoders = {"text_encoder": CLIPTextModel(_text()), "text_encoder_2": CLIPTextModelWithProjection(_text())}
    return StableDiffusionXLPipeline(vae=None, tokenizer=None, tokenizer_2=None, scheduler=None, unet=unet, **encoders)


def flux() -> FluxPipeline:
    """FLUX's layout, one block of each kind, 32 wide."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        in_channels=4,
        axes_dims_rope=(4, 4, 8),
    )
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler"))
    return FluxPipeline(transformer=transformer, **parts)


PIPELINES: Mapping[str, Callable[[], Any]] = {"sd": stable_diffusion, "sdxl": sdxl, "flux": flux}


def adapter_for(pipeline: Any, ranks: tuple[int, ...] = (1, 3, 2)) -> Adapter:
    """A random adapter of a pipeline's attention, some convolutions and text encoders; ranks and scalings differ."""
    rng = np.random.default_rng(0)
    modules: dict[str, LoraModule] = {}
    for index, (name, layer) in enumerate(_targets(pipeline)):
        rank = ranks[index % len(ranks)]
        shape = layer.weight.shape
        a = rng.standard_normal((rank, int(np.prod(shape[1:]))), np.float32)
        b = rng.standard_normal((shape[0], rank), np.float32)
        kernel = tuple(shape[2:]) or None
        kind: Any = "conv" if kernel else "linear"
        modules[name] = in_memory_module(name, a, b, 0.5 + index % 3, kind=kind, kernel=kernel)
    return Adapter("made", modules, "memory")


def loaded_deltas(pipeline: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Every update as PEFT computes it inside the pipeline, by the studio's name."""
    found = {}
    for component, model in _models(pipeline):
        for name, layer in model.named_modules():
            if isinstance(layer, LoraLayer):
                delta = layer.get_delta_weight(layer.active_adapters[0]).detach().flatten(1)
                found[canonical(f"{component}.{name}").name] = delta.numpy()
    return found


def _targets(pipeline: Any) -> Iterable[tuple[str, nn.Module]]:
    for component, model in _models(pipeline):
        for name, layer in model.named_modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)) and name.endswith(_ATTENTION):
                yield canonical(f"{component}.{name}").name, layer


def _models(pipeline: Any) -> Iterable[tuple[str, nn.Module]]:
    found = ((component, getattr(pipeline, component, None)) for component in COMPONENTS)
    return ((component, model) for component, model in found if model is not None)


def _text() -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=10,
        projection_dim=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
