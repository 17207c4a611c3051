"""The trained world as files: a transformers folder, PEFT folders, prompts, results, card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor

from training.text.adapters import ALPHA, RANK, Adapter
from training.text.corpus import END
from training.text.model import Shape
from training.weights import write_weights

BASE_ID = "lora-loom/text-base"


def write(path: Path, data: bytes) -> None:
    """Write through a temporary name in the same folder, synced before it gets its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Indented JSON with a closing newline."""
    write(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def write_base(folder: Path, weights: Mapping[str, Tensor], tokenizer: Tokenizer, shape: Shape) -> None:
    """A folder that `AutoModelForCausalLM` and `AutoTokenizer` open."""
    write_weights(folder / "model.safetensors", weights)
    write_json(folder / "config.json", shape.config())
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    sampling = {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "max_new_tokens": 200}
    write_json(folder / "generation_config.json", ends | sampling)
    write(folder / "tokenizer.json", tokenizer.to_str().encode())
    special = {"bos_token": END, "eos_token": END, "pad_token": END}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": shape.max_position_embeddings}
    inputs = {"model_input_names": ["input_ids", "attention_mask"], "padding_side": "left"}
    write_json(folder / "tokenizer_config.json", about | special | inputs)


def write_adapter(folder: Path, adapter: Adapter) -> None:
    """A folder that `PeftModel.from_pretrained` opens."""
    tensors = {}
    for name, (a, b) in adapter.items():
        for key, factor in (("lora_A", a), ("lora_B", b)):
            tensors[f"base_model.model.{name}.{key}.weight"] = factor.detach().to("cpu", torch.float16).contiguous()
    write(folder / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
    targets = sorted({name.rpartition(".")[2] for name in adapter})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": BASE_ID,
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_json(folder / "adapter_config.json", config)
