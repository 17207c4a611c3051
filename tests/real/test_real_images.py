"""Real Stable Diffusion 1.5 adapters find every layer of the real layout, by name and shape; no weights are needed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from studio.formats import open_adapter
from studio.vision.injected import layers_of, place

ADAPTERS = (
    "diffusers-mvclab", "diffusers-skope", "diffusers-timohavdk-2100", "kohya-like-timohavdk", "svd-analog-r4",
    "disney", "oldproc-pokemon", "lokr-falcon-8",
)  # fmt: skip


@pytest.fixture(scope="module")
def layers() -> dict[str, torch.nn.Module]:
    """The layers of Stable Diffusion 1.5 on the meta device: names and shapes without memory."""
    text = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        return layers_of(SimpleNamespace(unet=unet, text_encoder=CLIPTextModel(text)))


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_module_has_its_layer(layers: dict[str, torch.nn.Module], real_data: Path, name: str) -> None:
    adapter = open_adapter(real_data / "loras" / "sd-v1-5" / name)
    placed = place(adapter, layers)
    assert len(placed.parts) == len(adapter.modules) > 0
