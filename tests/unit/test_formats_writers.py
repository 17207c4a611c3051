"""Every writer against the library that owns its format: deltas agree module by module."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import FluxPipeline
from safetensors import safe_open

from studio.core.adapter import Adapter, LoraModule, in_memory_module
from studio.core.errors import LoomError
from studio.core.tensors import in_memory
from studio.formats import WRITERS, open_adapter, save_adapter
from studio.formats.saving import relative_error
from tests.fixtures import pair
from tests.pipelines import PIPELINES, adapter_for, loaded_deltas

Shapes = Mapping[str, tuple[int, int]]
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "vocab_size": 11,
}
LLAMA_SHAPES: Shapes = {
    **{
        f"model.layers.{i}.{name}": shape
        for i in range(2)
        for name, shape in {
            "self_attn.q_proj": (16, 16),
            "self_attn.k_proj": (8, 16),
            "self_attn.v_proj": (8, 16),
            "mlp.down_proj": (16, 24),
        }.items()
    },
    "model.layers.1.self_attn.o_proj": (16, 16),
}
TOLERANCE = {"float32": 1e-6, "float16": 4e-3}


def made(shapes: Shapes, **about: Any) -> Adapter:
    """A random adapter whose modules differ in rank and scaling."""
    modules = {
        name: in_memory_module(name, *pair(i, *shape, 2 + i % 2), 0.5 + i % 3)
        for i, (name, shape) in enumerate(shapes.items())
    }
    return Adapter("made", modules, "memory", **about)


def llama() -> Adapter:
    """A Llama adapter, its embedding included."""
    adapter = made(LLAMA_SHAPES, base="owner/llama")
    embedding = in_memory_module("model.embed_tokens", *pair(99, 16, 11, 2), 2.0, kind="embedding")
    return replace(adapter, modules={"model.embed_tokens": embedding, **adapter.modules})


def assert_close(found: Mapping[str, np.ndarray[Any, Any]], adapter: Adapter, tolerance: float) -> None:
    """Relative Frobenius error of every delta."""
    assert found.keys() == adapter.modules.keys()
    for name, delta in found.items():
        meant = adapter.delta(name)
        assert np.linalg.norm(delta - meant) <= tolerance * np.linalg.norm(meant), name


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("format", ["diffusers", "kohya"])
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_diffusers_loads_the_export_with_equal_deltas(tmp_path: Path, kind: str, format: str, dtype: Any) -> None:
    pipeline = PIPELINES[kind]()
    adapter = adapter_for(pipeline)
    folder = save_adapter(adapter, tmp_path / "out", format, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.load_lora_weights(folder, weight_name=WRITERS[format].files[-1])
    assert_close(loaded_deltas(pipeline), adapter, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_diffusers_loads_a_flux_export_with_equal_deltas(tmp_path: Path, dtype: Any) -> None:
    pipeline = PIPELINES["flux"]()
    adapter = adapter_for(pipeline)
    pipeline.load_lora_weights(save_adapter(adapter, tmp_path / "out", "diffusers", dtype=dtype))
    assert_close(loaded_deltas(pipeline), adapter, TOLERANCE[dtype])


FLUX = 3072  # diffusers' converter knows no other width
FLUX_SHAPES: Shapes = {
    "transformer.transformer_blocks.0.attn.to_q": (FLUX, FLUX),
    "transformer.transformer_blocks.0.attn.to_k": (FLUX, FLUX),
    "transformer.transformer_blocks.0.attn.to_v": (FLUX, FLUX),
    "transformer.transformer_blocks.0.attn.add_q_proj": (FLUX, FLUX),
    "transformer.transformer_blocks.0.attn.add_k_proj": (FLUX, FLUX),
    "transformer.transformer_blocks.0.attn.add_v_proj": (FLUX, FLUX),
    "transformer.transformer_blocks.0.attn.to_out.0": (FLUX, FLUX),
    "transformer.transformer_blocks.0.norm1.linear": (6 * FLUX, FLUX),
    "transformer.single_transformer_blocks.0.attn.to_q": (FLUX, FLUX),
    "transformer.single_transformer_blocks.0.attn.to_k": (FLUX, FLUX),
    "transformer.single_transformer_blocks.0.attn.to_v": (FLUX, FLUX),
    "transformer.single_transformer_blocks.0.proj_mlp": (4 * FLUX, FLUX),
    "transformer.single_transformer_blocks.0.proj_out": (FLUX, 5 * FLUX),
}


@pytest.mark.parametrize("shared", [False, True], ids=["own A", "one A"])
def test_diffusers_converts_a_kohya_flux_export_to_equal_deltas(tmp_path: Path, shared: bool) -> None:
    adapter = made(FLUX_SHAPES)
    if shared:
        down = pair(0, 1, FLUX, 2)[0]
        modules = {
            name: in_memory_module(name, down, pair(i, module.d_out, 1, 2)[1], 0.5)
            for i, (name, module) in enumerate(adapter.modules.items())
            if module.d_in == FLUX
        }
        adapter = replace(adapter, modules=modules)
    folder = save_adapter(adapter, tmp_path / "out", "kohya")
    ranks = {module.rank for module in open_adapter(folder).modules.values()}
    assert (ranks == {2}) == shared
    state = FluxPipeline.lora_state_dict(folder, weight_name="lora.safetensors")
    stock = {key.removesuffix(".lora_A.weight") for key in state if key.endswith(".lora_A.weight")}
    assert stock == adapter.modules.keys()
    for name, module in adapter.modules.items():
        a, b = (state[f"{name}.lora_{half}.weight"].numpy() for half in "AB")
        assert relative_error(module, in_memory_module(name, a, b)) <= 1e-6, name


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_gguf_package_reads_what_llama_cpp_would_apply(tmp_path: Path, dtype: Any) -> None:
    import gguf

    adapter, config = llama(), tmp_path / "config.json"
    config.write_text(json.dumps(LLAMA))
    folder = save_adapter(adapter, tmp_path / "out", "gguf", dtype=dtype, base_config=config)
    reader = gguf.GGUFReader(folder / "adapter.gguf")
    said = {key: reader.fields[key].contents() for key in ("general.type", "adapter.type", "general.architecture")}
    assert said == {"general.type": "adapter", "adapter.type": "lora", "general.architecture": "llama"}
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    stored = {tensor.name: _gguf_values(tensor) for tensor in reader.tensors}
    assert len(stored) == 2 * len(adapter.modules)
    found = {}
    for name, module in adapter.modules.items():
        a, b = (stored[f"{table.get_name(name)}.weight.lora_{half}"] for half in "ab")
        scale = reader.fields["adapter.lora.alpha"].contents() / b.shape[1]
        delta = scale * b @ (a.T if module.kind == "embedding" else a)
        found[name] = delta
    permuted = {
        name: replace(module, load=_Permuted(module)) if name.endswith(("q_proj", "k_proj")) else module
        for name, module in adapter.modules.items()
    }
    assert_close(found, replace(adapter, modules=permuted), {"float32": 1e-6, "float16": 4e-3, "bfloat16": 1e-2}[dtype])


class _Permuted:
    """A pair as llama.cpp's LlamaModel.permute would order its rows, in heads of four."""

    def __init__(self, module: LoraModule) -> None:
        self.module = module

    def __call__(self) -> tuple[Any, Any]:
        a, b = self.module
        return a, b.reshape(b.shape[0] // 4, 2, 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape)


def _gguf_values(tensor: Any) -> np.ndarray[Any, Any]:
    import gguf

    shape = tuple(reversed(tensor.shape.tolist()))
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)


def test_gguf_comes_back_under_the_bases_names(tmp_path: Path) -> None:
    adapter, config = llama(), tmp_path / "config.json"
    config.write_text(json.dumps(LLAMA))
    again = open_adapter(save_adapter(adapter, tmp_path / "out", "gguf", base_config=tmp_path))
    assert (again.dialect, again.base) == ("gguf", "owner/llama")
    assert_close({name: again.delta(name) for name in again.modules}, adapter, 1e-6)
    assert again.modules["model.embed_tokens"].kind == "embedding"


def test_mlx_lm_loads_the_export_with_equal_deltas(tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", exc_type=ImportError)
    tuner = pytest.importorskip("mlx_lm.tuner.utils")
    from mlx_lm.models import llama as stock

    adapter = llama()
    folder = save_adapter(adapter, tmp_path / "out", "mlx")
    model = stock.Model(stock.ModelArgs.from_dict({**LLAMA, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}))
    tuner.load_adapters(model, str(folder))
    layers = {name: layer for name, layer in model.named_modules() if "lora_a" in layer}
    found = {
        name: np.array(layer.scale * (layer.lora_a @ layer.lora_b).T)
        for name, layer in layers.items()
        if np.any(np.array(layer.lora_b))
    }
    assert_close(found, adapter, 1e-6)


@pytest.mark.parametrize("format", ["diffusers", "kohya", "mlx", "gguf"])
def test_every_format_reads_back_as_its_own_dialect(tmp_path: Path, format: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    is_image = format in ("diffusers", "kohya")
    adapter = adapter_for(PIPELINES["sd"]()) if is_image else llama()
    for name in ("out", "out.zip"):
        path = save_adapter(adapter, tmp_path / name, format, recipe="format: 1\n", base_config=tmp_path)
        assert open_adapter(path).dialect == format
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {*WRITERS[format].files, "recipe.yaml"}


IMAGE: Shapes = {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (8, 8)}
WITH_HEAD = replace(made(LLAMA_SHAPES), extras={"head.weight": in_memory(np.ones((2, 2), np.float32))})
CONV = Adapter("made", {"x.conv": in_memory_module("x.conv", *pair(0, 4, 18), kind="conv", kernel=(3, 3))}, "memory")


@pytest.mark.parametrize(
    ("format", "adapter", "reason"),
    [
        ("diffusers", made(LLAMA_SHAPES), "is for image pipelines"),
        ("diffusers", made({"transformer.h.0.attn.c_attn": (24, 8)}, base="gpt2"), "is for image pipelines"),
        ("diffusers", replace(made(IMAGE), extras=WITH_HEAD.extras), "no full tensors"),
        ("kohya", made(LLAMA_SHAPES), "is for image pipelines"),
        ("kohya", made({"transformer.transformer_blocks.0.attn.to_q": (8, 8)}, base="o/Qwen-Image"), "is written for"),
        ("kohya", made({"unet.nowhere.to_q": (8, 8)}), "has no name for unet.nowhere.to_q"),
        ("mlx", made(IMAGE), "is for language models"),
        ("mlx", CONV, "holds no LoRA on convolutions"),
        ("mlx", WITH_HEAD, "no full tensors"),
        ("gguf", CONV, "holds no LoRA on convolutions"),
        ("gguf", made({"model.layers.0.mlp.gate": (8, 8)}), "has no name for"),
        ("gguf", made({"model.layers.0.self_attn.q_proj": (6, 16)}), "do not divide"),
        ("gguf", WITH_HEAD, "no full tensors"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path, format: str, adapter: Adapter, reason: str
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(LLAMA))
    with pytest.raises(LoomError, match=reason):
        save_adapter(adapter, tmp_path / "out", format, base_config=config)
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{}", "needs the base model's config.json"),
        ('{"model_type": "mamba"}', "of mamba are not known"),
        ("[", "JSON"),
    ],
)
def test_gguf_needs_an_architecture(tmp_path: Path, config: str, reason: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(LoomError, match=reason):
        save_adapter(llama(), tmp_path / "out", "gguf", base_config=tmp_path)
    with pytest.raises(LoomError, match=r"cannot be read|needs the base"):
        save_adapter(llama(), tmp_path / "out", "gguf", base_config=tmp_path / "nothing.json")
    with pytest.raises(LoomError, match="needs the base"):
        save_adapter(llama(), tmp_path / "out", "gguf")


def test_kohya_folds_the_scale_so_that_alpha_is_the_rank(tmp_path: Path) -> None:
    folder = save_adapter(adapter_for(PIPELINES["sd"]()), tmp_path / "out", "kohya")
    with safe_open(folder / "lora.safetensors", "np") as file:
        alphas = [key for key in file.keys() if key.endswith(".alpha")]  # noqa: SIM118 (no mapping)
        assert alphas
        for key in alphas:
            down = file.get_tensor(key.replace(".alpha", ".lora_down.weight"))
            assert file.get_tensor(key) == down.shape[0]


def test_an_export_of_one_format_does_not_replace_that_of_another(tmp_path: Path) -> None:
    save_adapter(made(LLAMA_SHAPES), tmp_path / "out", "mlx")
    save_adapter(made(LLAMA_SHAPES), tmp_path / "out", "mlx")
    with pytest.raises(LoomError, match="not overwritten"):
        save_adapter(made(LLAMA_SHAPES), tmp_path / "out", "peft")
