"""A small random FLUX.1-Kontext in the real folder layout, and a synthetic LoRWeB file in the released one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from studio.vision.lorweb import BasisLayer, Lorweb, QueryMode, RoutingConfig
from studio.vision.lorweb_file import write_lorweb

WORDS = ("make", "it", "blue", "a", "house", "red")
EMBEDDING = 12  # width of the small image encoders


def kontext_pipeline(guidance_embeds: bool = True) -> FluxKontextPipeline:
    """The layout of FLUX.1-Kontext-dev: two double blocks, two single ones, 32 wide; all weights random."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        in_channels=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance_embeds,
    )
    return FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=small_vae(4),
        text_encoder=CLIPTextModel(clip_text()),
        tokenizer=clip_tokenizer(),
        text_encoder_2=T5EncoderModel(T5Config(vocab_size=20, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    ).to(torch.float32)


def small_vae(channels: int) -> AutoencoderKL:
    """An autoencoder that halves the side once, with FLUX's shift and scale."""
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=2,
        sample_size=32,
        shift_factor=0.1159,
        scaling_factor=0.3611,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def clip_text() -> CLIPTextConfig:
    """A text encoder for `clip_tokenizer`."""
    return CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=20,
        projection_dim=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip


def clip_tokenizer() -> CLIPTokenizer:
    """A tokenizer that knows a few words."""
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, **{f"{word}</w>": i + 2 for i, word in enumerate(WORDS)}}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    """The same words for T5."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -1.0) for word in WORDS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def lorweb_for(transformer: nn.Module, mode: QueryMode = "cat-aa'b", parts: int = 3, **config: Any) -> Lorweb:
    """A random basis of 4 adapters of rank 2 on every linear inside the blocks, as the released run places them."""
    generator = torch.Generator().manual_seed(1)
    layers = {}
    for name, layer in transformer.named_modules():
        if isinstance(layer, nn.Linear) and "transformer_blocks" in name:
            n, m = layer.in_features, layer.out_features
            shapes = ((4, n, 2), (4, 2, m), (4, 6), (6, parts * EMBEDDING))
            values = [0.3 * torch.randn(shape, generator=generator) for shape in shapes]
            layers[name] = BasisLayer(*(value.half().float() for value in values))
    return Lorweb(layers, RoutingConfig(query_mode=mode, **config), "black-forest-labs/FLUX.1-Kontext-dev")


def lorweb_folder(folder: Path, transformer: nn.Module, encoder: Path, mode: QueryMode = "cat-aa'b") -> Path:
    """The basis as released: `lorweb_model.safetensors` in float16 and `config.yaml`."""
    parts = 3 if mode == "cat-aa'b" else 1
    return write_lorweb(lorweb_for(transformer, mode, parts, encoder=str(encoder)), folder)


def clip_folder(folder: Path) -> Path:
    """A CLIP vision tower with its projection."""
    torch.manual_seed(2)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=24, patch_size=8,
        projection_dim=EMBEDDING,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 24}, crop_size=24).save_pretrained(folder)
    return folder


def siglip_folder(folder: Path) -> Path:
    """A SigLIP vision tower."""
    torch.manual_seed(3)
    config = SiglipVisionConfig(
        hidden_size=EMBEDDING, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=24,
        patch_size=8,
    )  # fmt: skip
    SiglipVisionModel(config).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 24, "width": 24}).save_pretrained(folder)
    return folder
