"""Trained weights on disk: float16 safetensors, in the shards and under the names that save_pretrained gives them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from torch import Tensor

SHARD_BYTES = 9_900_000
"""Of tensors in one file: with its header it stays below the 10 MB over which a Space refuses a plain push."""

State = dict[str, Tensor]


def to_half(state: Mapping[str, Tensor]) -> State:
    """float16 copies on the CPU."""
    return {name: value.detach().half().cpu().contiguous() for name, value in state.items()}


def write_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write float16 tensors to `path`; what is larger than a shard goes into shards beside it, with their index."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pattern = f"{path.stem}{{suffix}}{path.suffix}"
    save_torch_state_dict(to_half(state), path.parent, filename_pattern=pattern, max_shard_size=SHARD_BYTES)


def read_weights(folder: Path, device: torch.device | str) -> State:
    """All tensors of a folder's safetensors files as float32."""
    found: State = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= {name: value.float().to(device) for name, value in load_file(path).items()}
    if not found:
        raise FileNotFoundError(f"{folder} holds no safetensors file; train that stage first")
    return found
