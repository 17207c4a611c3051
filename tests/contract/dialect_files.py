"""Files of every dialect, small and random: what each is read from, in every spelling that its `sniff` knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from studio.formats.modules.names import unet_by_index
from tests.fixtures import (
    Shapes,
    gguf_file,
    lorweb_basis,
    mlx_folder,
    pair,
    peft_folder,
    sharded_checkpoint,
    weights_file,
)


class DialectFile(NamedTuple):
    """A file of one dialect; `write(folder)` makes it in an empty folder and gives the path to open."""

    dialect: str
    about: str
    write: Callable[[Path], str | Path]

    @property
    def label(self) -> str:
        """A name for the test."""
        return f"{self.dialect}: {self.about}"


_BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
_UNET = f"unet.{_BLOCK}.to_q"
_UNDERSCORED = f"lora_unet_{_BLOCK.replace('.', '_')}_to_q"
_TEXT = "text_model.encoder.layers.0.self_attn.q_proj"
_QKV = "double_blocks.0.img_attn.qkv"
_FLUX = "transformer.transformer_blocks.0.attn.to_q"
_EXPERTS = "model.layers.0.mlp.experts"
_PEFT, _KOHYA = (".lora_A.weight", ".lora_B.weight"), (".lora_down.weight", ".lora_up.weight")
_HALVES = (".down.weight", ".up.weight")
_AI_TOOLKIT = {"software": '{"name": "ai-toolkit"}'}
_LOHA = {"hada_w1_a": (6, 2), "hada_w1_b": (2, 5), "hada_w2_a": (6, 2), "hada_w2_b": (2, 5)}
_LOKR = {"lokr_w1": (3, 4), "lokr_w2_a": (5, 2), "lokr_w2_b": (2, 6)}


def _pair(
    dialect: str,
    about: str,
    module: str,
    halves: tuple[str, str],
    rows: int = 1,
    header: Mapping[str, str] | None = None,
) -> DialectFile:
    """A file of one pair, whose keys are the module's name and these endings; `rows` are d_out / d_in."""
    tensors = {module + half: values for half, values in zip(halves, pair(0, rows * 8, 8), strict=True)}
    return DialectFile(dialect, about, lambda folder: weights_file(folder / "x.safetensors", tensors, header))


def _parts(dialect: str, about: str, module: str, **shapes: tuple[int, ...]) -> DialectFile:
    """A file of one module that is made of other parts than a pair."""
    tensors = {f"{module}.{part}": values for part, values in _random(shapes).items()}
    return DialectFile(dialect, about, lambda folder: weights_file(folder / "x.safetensors", tensors))


def _peft(about: str, modules: Shapes, **config: Any) -> DialectFile:
    return DialectFile("peft", about, partial(peft_folder, modules=modules, **config))


def _pefts_loha(folder: Path) -> Path:
    tensors = {f"base_model.model.q.{part}": values for part, values in _random(_LOHA).items()}
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LOHA", "r": 2, "alpha": 2}))
    return weights_file(folder / "adapter_model.safetensors", tensors).parent


def _adalora(folder: Path) -> Path:
    shapes = {"lora_A": (3, 8), "lora_B": (6, 3), "lora_E": (3, 1)}
    tensors = {f"base_model.model.q_proj.{part}": values for part, values in _random(shapes).items()}
    config = {
        "peft_type": "ADALORA",
        "init_r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"q_proj.lora_E": [True] * 3 + [False]},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return weights_file(folder / "adapter_model.safetensors", tensors).parent


def _random(shapes: Shapes) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def _gguf(folder: Path) -> Path:
    return gguf_file(folder / "adapter.gguf", {"blk.0.attn_v": pair(0, 8, 8)}, alpha=4)


def _lorweb(folder: Path) -> str:
    return f"{lorweb_basis(folder)}#2"


def _checkpoint(folder: Path) -> str:
    return f"{sharded_checkpoint(folder)}#vision"


def _one_file_checkpoint(folder: Path) -> Path:
    down, up = pair(0, 8, 8)
    stem = "model.layers.0.self_attn.qkv_proj"
    tensors = {f"{stem}.lora_A.speech.weight": down, f"{stem}.lora_B.speech.weight": up}
    return weights_file(folder / "x.safetensors", {**tensors, f"{stem}.base_layer.weight": up @ down})


def _sam(folder: Path) -> Path:
    halves = {f"w_{half}_{i:03}": values for i in range(4) for half, values in zip("ab", pair(i, 4, 4), strict=True)}
    return weights_file(folder / "lora.safetensors", halves)


def _numbered() -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    layers = [layer for layer in unet_by_index() if layer.ancestor == "attention"]
    return [pair(i, layer.d_out, layer.d_in, 1) for i, layer in enumerate(layers)]


def _numbered_keys(folder: Path) -> Path:
    named = {f"unet:{i}:down": down for i, (down, _) in enumerate(_numbered())}
    named |= {f"unet:{i}:up": up for i, (_, up) in enumerate(_numbered())}
    return weights_file(folder / "lora.safetensors", named, {"unet": '["CrossAttention", "Attention"]'})


def _numbered_list(folder: Path) -> Path:
    import torch

    torch.save([torch.from_numpy(x) for down, up in _numbered() for x in (up, down)], folder / "lora.pt")
    return folder / "lora.pt"


FILES = (
    DialectFile("gguf", "a file", _gguf),
    DialectFile("lorweb", "one adapter of a basis", _lorweb),
    DialectFile("embedded", "a sharded checkpoint", _checkpoint),
    DialectFile("embedded", "one file", _one_file_checkpoint),
    DialectFile("sam", "numbered pairs", _sam),
    DialectFile("cloneofsimo", "numbered keys", _numbered_keys),
    DialectFile("cloneofsimo", "a bare list", _numbered_list),
    _parts("lycoris", "LoHa", _UNDERSCORED, **_LOHA),
    _parts("lycoris", "LoKr", _UNDERSCORED, **_LOKR),
    _parts("lycoris", "a whole difference", _UNDERSCORED, diff=(6, 5)),
    DialectFile("lycoris", "PEFT's LoHa", _pefts_loha),
    _pair("kohya", "a UNet", _UNDERSCORED, _KOHYA),
    _pair("kohya", "FLUX", "lora_unet_single_blocks_0_linear1", _KOHYA, rows=7),
    DialectFile("mlx", "a folder", mlx_folder),
    DialectFile("mlx", "a bare file", partial(mlx_folder, scale=None)),
    _pair("xlabs", "a double block", "double_blocks.0.processor.qkv_lora1", _HALVES, rows=3),
    _pair("bfl", "Black Forest Labs", _QKV, _PEFT, rows=3),
    _pair("bfl", "fal", f"base_model.model.{_QKV}", _PEFT, rows=3),
    _pair("ai-toolkit", "diffusers' names", _FLUX, _PEFT, header=_AI_TOOLKIT),
    _pair("ai-toolkit", "original names", f"diffusion_model.{_QKV}", _PEFT, rows=3, header=_AI_TOOLKIT),
    _pair("comfyui", "original names", f"diffusion_model.{_QKV}", _PEFT, rows=3),
    _pair("comfyui", "a text encoder", f"text_encoders.clip_l.transformer.{_TEXT}", _KOHYA),
    _pair("diffusers", "PEFT's endings", _UNET, _PEFT),
    _pair("diffusers", "bare endings", _UNET, (".lora_A", ".lora_B")),
    _pair("diffusers", "old endings", f"{_UNET}.lora", _HALVES),
    _pair("diffusers", "attention processors", f"{_BLOCK}.processor.to_q_lora", _HALVES),
    _pair("diffusers", "a text encoder", f"text_encoder.{_TEXT}.lora_linear_layer", _HALVES),
    _pair("diffusers", "kohya's endings", f"lora_{_UNET}", _KOHYA),
    _pair("diffusers", "FLUX", _FLUX, _PEFT),
    DialectFile("adalora", "a folder", _adalora),
    DialectFile("peft", "a folder", peft_folder),
    _pair("peft", "a bare file", "base_model.model.layers.0.q_proj", _PEFT),
    _pair("peft", "a bare file without its prefix", "layers.0.q_proj", _PEFT),
    _peft("GPT-2", {"transformer.h.0.attn.c_attn": (12, 4)}),
    _peft("a denoiser", {"transformer_blocks.0.attn.to_q": (8, 8)}),
    _peft("FLUX's original names", {_QKV: (24, 8)}),
    _peft("a convolution", {"conv": (6, 4, 3, 3)}),
    _peft("an embedding", {"model.embed_tokens": (8, 11)}),
    _peft("fused experts", {_EXPERTS: (8, 4)}, rank_pattern={_EXPERTS: 8}, target_parameters=[f"{_EXPERTS}.up_proj"]),
    _peft("a head", {"q_proj": (8, 8)}, modules_to_save=["score"], extras={"score.weight": np.ones((2, 4), "f4")}),
)
