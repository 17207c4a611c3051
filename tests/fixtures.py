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


def gguf_file(
    path: Path,
    pairs: Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]],
    *,
    alpha: float,
    architecture: str = "llama",
    general_type: str = "adapter",
    adapter_type: str = "lora",
    kind: Any = None,
) -> Path:
    """A GGUF adapter by the package that owns the format; `kind` quantises its tensors."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(general_type)
    writer.add_string("adapter.type", adapter_type)
    writer.add_float32("adapter.lora.alpha", alpha)
    writer.add_array("general.tags", ["lora", "test"])
    for name, halves in pairs.items():
        for half, values in zip("ab", halves, strict=True):
            stored = values if kind is None else gguf.quants.quantize(values, kind)
            writer.add_tensor(f"{name}.weight.lora_{half}", np.ascontiguousarray(stored), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def sharded_checkpoint(path: Path, adapters: Mapping[str, int] | None = None) -> Path:
    """A checkpoint in three shards with adapters inside, by rank; config.json speaks of `vision` alone."""
    chosen = {"vision": 4, "speech": 2} if adapters is None else adapters
    shards: list[dict[str, np.ndarray[Any, Any]]] = [{}, {}, {"lm_head.weight": np.ones((4, 8), np.float32)}]
    for layer in range(2):
        stem = f"model.layers.{layer}.self_attn.qkv_proj"
        shards[layer][f"{stem}.base_layer.weight"] = np.ones((12, 8), np.float32)
        for name, rank in chosen.items():
            down, up = pair(layer, 12, 8, rank)
            shards[layer] |= {f"{stem}.lora_A.{name}.weight": down, f"{stem}.lora_B.{name}.weight": up}
    files = [f"model-{i + 1:05}-of-00003.safetensors" for i in range(3)]
    for file, tensors in zip(files, shards, strict=True):
        weights_file(path / file, tensors)
    weight_map = {key: file for file, tensors in zip(files, shards, strict=True) for key in tensors}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (path / "config.json").write_text(json.dumps({"vision_lora": {"r": 4, "lora_alpha": 8}}))
    return path


def lorweb_basis(folder: Path) -> Path:
    """Three adapters of rank 2 on one layer; those of the second are all 2."""
    stem = "transformer.transformer_blocks.0.attn.to_q"
    shapes = {"lora_A": (3, 8, 2), "lora_B": (3, 2, 8), "lora_keys": (3, 4), "att_lora_to_q.weight": (4, 6)}
    tensors = {f"{stem}.{part}": np.ones(shape, np.float32) for part, shape in shapes.items()}
    tensors[f"{stem}.lora_A"][1] = 2
    return weights_file(folder / "lorweb_model.safetensors", tensors)
