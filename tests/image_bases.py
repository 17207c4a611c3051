"""Small random text-to-image pipelines that draw, whole and in the real folder layout; see `tests.pipelines`."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tests.kontext import clip_text, clip_tokenizer, small_vae, t5_tokenizer
from tests.pipelines import flux, stable_diffusion


def whole_sd() -> StableDiffusionPipeline:
    """Stable Diffusion 1.5's layout."""
    parts = {"safety_checker": None, "feature_extractor": None}
    return StableDiffusionPipeline(
        unet=stable_diffusion().unet,
        text_encoder=CLIPTextModel(clip_text()),
        tokenizer=clip_tokenizer(),
        vae=small_vae(4),
        scheduler=EulerDiscreteScheduler(),
        requires_safety_checker=False,
        **parts,
    )


def whole_sdxl() -> StableDiffusionXLPipeline:
    """SDXL's layout: two text encoders, size conditioning; the context is as wide as both encoders together."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8),
        norm_num_groups=2,
        cross_attention_dim=32,
        attention_head_dim=2,
        transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        sample_size=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 8,
    )
    return StableDiffusionXLPipeline(
        unet=unet,
        text_encoder=CLIPTextModel(clip_text()),
        text_encoder_2=CLIPTextModelWithProjection(clip_text()),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        vae=small_vae(4),
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    )


def whole_flux() -> FluxPipeline:
    """FLUX's layout."""
    t5 = T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return FluxPipeline(
        transformer=flux().transformer,
        text_encoder=CLIPTextModel(clip_text()),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        vae=small_vae(1),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def quiet(pipeline: Any) -> Any:
    """Parts made by hand are in training mode, where T5 drops units at random."""
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(torch.float32)


BASES: dict[str, Any] = {"sd": whole_sd, "sdxl": whole_sdxl, "flux": whole_flux}
