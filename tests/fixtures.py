"""Small random adapter files of each dialect, for tests of every room."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Shapes = Mapping[str, tuple[int, ...]]
TINY: Shapes = {
    "model.layers.0.self_attn.q_proj": (12, 16),
    "model.layers.0.self_attn.v_proj": (6, 16),
    "model.layers.1.self_attn.q_proj": (12, 16),
    "model.layers.1.self_attn.v_proj": (6, 16),
}


def peft_folder(
    path: Path,
    *,
    modules: Shapes | None = None,
    rank: int = 4,
    alpha: float = 8,
    seed: int = 0,
    rslora: bool = False,
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
    base: str | None = "tiny/base",
    extras: Mapping[str, np.ndarray[Any, Any]] | None = None,
    prefix: str = "base_model.model.",
    dtype: str = "float32",
    **config: Any,
) -> Path:
    """A random PEFT folder. Shapes are (d_out, d_in), for a convolution (d_out, in, *kernel).

    A module whose name ends in `embed_tokens` or `wte` gets an embedding pair: (width, vocabulary). Ranks are taken
    from `rank_pattern` by the module's last segment or full name.
    """
    rng = np.random.default_rng(seed)
    adapted = TINY if modules is None else modules
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for name, shape in adapted.items():
        patterns = rank_pattern or {}
        r = patterns.get(name, patterns.get(name.rpartition(".")[2], rank))
        a = rng.standard_normal((r, *shape[1:])).astype(dtype)
        b = rng.standard_normal((shape[0], r, *(1 for _ in shape[2:]))).astype(dtype)
        if name.endswith(("embed_tokens", "wte")):
            tensors[f"{prefix}{name}.lora_embedding_A"], tensors[f"{prefix}{name}.lora_embedding_B"] = a, b
        else:
            tensors[f"{prefix}{name}.lora_A.weight"], tensors[f"{prefix}{name}.lora_B.weight"] = a, b
    tensors |= {prefix + key: value for key, value in (extras or {}).items()}
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": rslora,
        "rank_pattern": dict(rank_pattern or {}),
        "alpha_pattern": dict(alpha_pattern or {}),
        "target_modules": sorted({name.rpartition(".")[2] for name in adapted}),
        **config,
    }
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / "adapter_model.safetensors", {"format": "pt"})
    (path / "adapter_config.json").write_text(json.dumps(settings))
    return path


def weights_file(
    path: Path, tensors: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, str] | None = None
) -> Path:
    """A bare safetensors file, of whatever dialect its keys are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, path, dict(metadata or {}))
    return path


def pair(seed: int, d_out: int, d_in: int, rank: int = 2) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A random pair: down (rank, d_in), up (d_out, rank)."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rank, d_in), np.float32), rng.standard_normal((d_out, rank), np.float32)


def mlx_folder(path: Path, *, rank: int = 2, scale: float | None = 10.0, seed: int = 0) -> Path:
    """A random MLX folder: adapters.safetensors with transposed pairs, and its config unless `scale` is None."""
    tensors = {}
    for index, (name, (d_out, d_in)) in enumerate(TINY.items()):
        down, up = pair(seed + index, d_out, d_in, rank)
        tensors |= {f"{name}.lora_a": down.T, f"{name}.lora_b": up.T}
    weights_file(path / "adapters.safetensors", tensors)
    if scale is not None:
        config = {"fine_tune_type": "lora", "model": "tiny/base", "lora_parameters": {"rank": rank, "scale": scale}}
        (path / "adapter_config.json").write_text(json.dumps(config))
    return path
