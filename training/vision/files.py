"""The written form: folders with the configs and names that diffusers and transformers read."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from training.vision.autoencoder import AutoencoderConfig
from training.vision.transformer import TransformerConfig
from training.weights import write_weights


def write_json(path: Path, content: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, `NAME.lock` beside it: stages that run side by side write to one results file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_model(folder: Path, state: Mapping[str, Tensor], config: Mapping[str, object]) -> None:
    """Write config.json and the weights, as diffusers' save_pretrained does."""
    write_json(folder / "config.json", config)
    write_weights(folder / "diffusion_pytorch_model.safetensors", state)


def autoencoder_config(config: Mapping[str, Any]) -> AutoencoderConfig:
    """The inverse of `AutoencoderConfig.to_diffusers`."""
    return AutoencoderConfig(tuple(config["block_out_channels"]), config["latent_channels"], config["norm_num_groups"])


def transformer_config(config: Mapping[str, Any]) -> TransformerConfig:
    """The inverse of `TransformerConfig.to_diffusers`."""
    return TransformerConfig(
        channels=config["in_channels"],
        double_blocks=config["num_layers"],
        single_blocks=config["num_single_layers"],
        heads=config["num_attention_heads"],
        head_width=config["attention_head_dim"],
        text_width=config["joint_attention_dim"],
        pooled_width=config["pooled_projection_dim"],
        axes=tuple(config["axes_dims_rope"]),
    )


def write_pipeline_index(folder: Path) -> None:
    """model_index.json and the scheduler, so that FluxKontextPipeline.from_pretrained opens the folder."""
    empty = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "image_encoder", "feature_extractor")
    parts: dict[str, object] = {name: [None, None] for name in empty}
    known = {
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(folder / "model_index.json", {"_class_name": "FluxKontextPipeline", **parts, **known})
    scheduler = {"num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False}
    write_json(
        folder / "scheduler" / "scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler", **scheduler}
    )


def write_encoder(folder: Path, encoder: CLIPVisionModelWithProjection) -> None:
    """The relation encoder as transformers' save_pretrained lays it out."""
    write_json(folder / "config.json", encoder.config.to_dict())
    write_weights(folder / "model.safetensors", encoder.state_dict())
