"""FLUX in all its spellings: each reads as diffusers' own converters say, and all meet under one set of names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.loaders import lora_conversion_utils as stock

from studio.adapter import Adapter, in_memory_module
from studio.errors import Refused
from studio.formats import inspect, open_adapter, save_adapter
from studio.formats.export import relative_error
from studio.formats.flux import fuse, is_original, split_fused
from studio.formats.names import table_lines
from tests.fixtures import pair, peft_folder, weights_file

Arrays = dict[str, np.ndarray[Any, Any]]
D = 8  # width of the tiny model; FLUX's is 3072
QKV, LINEAR1 = "double_blocks.0.img_attn.qkv", "single_blocks.1.linear1"
DOUBLE, SINGLE = "transformer.transformer_blocks.0", "transformer.single_transformer_blocks.1"
PARTS = [f"{DOUBLE}.attn.{part}" for part in ("to_q", "to_k", "to_v")]


def assert_equal(adapter: Adapter, expected: Adapter) -> None:
    assert adapter.modules.keys() == expected.modules.keys()
    for name, module in expected.modules.items():
        assert relative_error(module, adapter.modules[name]) <= 1e-6, name


def stock_adapter(state: dict[str, torch.Tensor]) -> Adapter:
    """What a converter of diffusers returned, scaling 1."""
    downs = {key.removesuffix(".lora_A.weight"): value.numpy() for key, value in state.items() if ".lora_A." in key}
    modules = {
        name: in_memory_module(name, a, state[f"{name}.lora_B.weight"].numpy().copy()) for name, a in downs.items()
    }
    return Adapter("stock", modules, "memory")


def _file(path: Path, tensors: Arrays, metadata: dict[str, str] | None = None) -> Path:
    return weights_file(path / "x" / "lora.safetensors", tensors, metadata)


def test_one_update_in_every_spelling(tmp_path: Path) -> None:
    down, up = pair(0, 3 * D, D)
    spellings: dict[str, tuple[str, dict[str, str]]] = {
        "bfl": (f"{QKV}.lora_A.weight|{QKV}.lora_B.weight", {}),
        "comfyui": (f"diffusion_model.{QKV}.lora_A.weight|diffusion_model.{QKV}.lora_B.weight", {}),
        "ai-toolkit": (
            f"diffusion_model.{QKV}.lora_A.weight|diffusion_model.{QKV}.lora_B.weight",
            {"software": '{"name": "ai-toolkit"}'},
        ),
        "kohya": (
            "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight|lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight",
            {},
        ),
        "xlabs": (
            "double_blocks.0.processor.qkv_lora1.down.weight|double_blocks.0.processor.qkv_lora1.up.weight",
            {},
        ),
    }
    for dialect, (keys, metadata) in spellings.items():
        down_key, up_key = keys.split("|")
        adapter = open_adapter(_file(tmp_path, {down_key: down, up_key: up}, metadata))
        assert (adapter.dialect, list(adapter.modules)) == (dialect, PARTS)
        np.testing.assert_allclose(np.vstack([adapter.delta(name) for name in PARTS]), up @ down, rtol=1e-5)
    fal = _file(tmp_path, {f"base_model.model.{QKV}.lora_{half}.weight": x for half, x in (("A", down), ("B", up))})
    assert list(open_adapter(fal).modules) == PARTS
    folder = peft_folder(tmp_path / "peft", modules={QKV: (3 * D, D), "transformer_blocks.0.ff.net.2": (D, D)})
    assert list(open_adapter(folder).modules) == [*PARTS, f"{DOUBLE}.ff.net.2"]


def test_a_block_diagonal_b_divides_the_rank_and_another_does_not() -> None:
    rng = np.random.default_rng(0)
    b = np.zeros((7 * D, 8), np.float32)
    for rows, columns in zip(np.split(np.arange(7 * D), [D, 2 * D, 3 * D]), np.split(np.arange(8), 4), strict=True):
        b[np.ix_(rows, columns)] = rng.standard_normal((len(rows), 2))
    a = rng.standard_normal((8, D), np.float32)
    name = f"transformer.{LINEAR1}"
    split = split_fused({name: in_memory_module(name, a, b, 0.5)})
    assert [module.rank for module in split.values()] == [2] * 4
    assert [module.d_out for module in split.values()] == [D, D, D, 4 * D]
    np.testing.assert_allclose(
        np.vstack([module.delta() for module in split.values()]), 0.5 * b @ a, rtol=1e-4, atol=1e-6
    )
    b[0, 7] = 1
    split = split_fused({name: in_memory_module(name, a, b, 0.5)})
    assert [module.rank for module in split.values()] == [8] * 4
    np.testing.assert_allclose(
        np.vstack([module.delta() for module in split.values()]), 0.5 * b @ a, rtol=1e-4, atol=1e-6
    )


def test_split_and_fuse_are_inverses() -> None:
    originals = [f"transformer.{line.split()[0].format(3)}" for line in table_lines("flux_original")]
    modules = {}
    for index, name in enumerate(originals):
        rows = 3 * D if name.endswith("qkv") else 7 * D if name.endswith("linear1") else 2 * D
        modules[name] = in_memory_module(name, *pair(index, rows, D, 5), 2.0)
    assert all(map(is_original, originals))
    split = split_fused(modules)
    assert len(split) == len(originals) + 2 + 2 + 3
    again = fuse(split)
    assert_equal(Adapter("x", again, "memory"), Adapter("x", modules, "memory"))
    assert {module.rank for module in again.values()} == {5}


def test_the_table_names_every_layer_of_the_model() -> None:
    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    linears = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    lines = (line.split()[1:] for line in table_lines("flux_original"))
    assert {part.partition("*")[0].format(0) for parts in lines for part in parts} == linears


def test_rows_that_do_not_divide_and_parts_given_twice_are_refused(tmp_path: Path) -> None:
    down, up = pair(0, 3 * D + 1, D)
    with pytest.raises(Refused, match="cannot be split into 3 layers"):
        open_adapter(_file(tmp_path, {f"{QKV}.lora_A.weight": down, f"{QKV}.lora_B.weight": up}))
    tensors = {f"{QKV}.lora_{half}.weight": x for half, x in zip("AB", pair(0, 3 * D, D), strict=True)}
    tensors |= {f"{PARTS[0]}.lora_{half}.weight": x for half, x in zip("AB", pair(0, D, D), strict=True)}
    with pytest.raises(Refused, match="stands twice"):
        open_adapter(_file(tmp_path, tensors))


def test_xlabs_reads_as_diffusers_converts_it(tmp_path: Path) -> None:
    rows = {"qkv_lora1": 3 * D, "qkv_lora2": 3 * D, "proj_lora1": D, "proj_lora2": D, "qkv_lora": 3 * D, "proj_lora": D}
    tensors: Arrays = {}
    for index, (name, d_out) in enumerate(rows.items()):
        stem = f"{'double' if name[-1].isdigit() else 'single'}_blocks.1.processor.{name}"
        tensors[f"{stem}.down.weight"], tensors[f"{stem}.up.weight"] = pair(index, d_out, D)
    converted = stock._convert_xlabs_flux_lora_to_diffusers({k: torch.from_numpy(v) for k, v in tensors.items()})
    adapter = open_adapter(_file(tmp_path, tensors))
    assert (adapter.dialect, len(adapter.modules)) == ("xlabs", 3 + 3 + 2 + 3 + 1)
    assert_equal(adapter, stock_adapter(converted))


FLUX = 3072  # diffusers' converters know no other width


def test_kohya_reads_as_diffusers_converts_it(tmp_path: Path) -> None:
    sizes = {
        "double_blocks_0_img_attn_qkv": (3 * FLUX, FLUX),
        "double_blocks_0_txt_mlp_0": (4 * FLUX, FLUX),
        "double_blocks_0_img_mod_lin": (6 * FLUX, FLUX),
        "single_blocks_0_linear1": (7 * FLUX, FLUX),
        "single_blocks_0_linear2": (FLUX, 5 * FLUX),
    }
    tensors: Arrays = {}
    for index, (name, shape) in enumerate(sizes.items()):
        stem = f"lora_unet_{name}"
        tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"] = pair(index, *shape)
        tensors[f"{stem}.alpha"] = np.array(1.0, np.float32)
    path = _file(tmp_path, tensors)
    assert_equal(open_adapter(path), stock_adapter(FluxPipeline.lora_state_dict(path.parent, weight_name=path.name)))


def test_bfl_control_reads_as_diffusers_converts_it(tmp_path: Path) -> None:
    rows = {"qkv": 3, "proj": 1, "lin": 1, "linear1": 7}
    lines = [line.split()[0] for line in table_lines("flux_original")]
    names = [line.format(i) for line in lines for i in range(19 if "double" in line else 38 if "single" in line else 1)]
    tensors: Arrays = {}
    for index, name in enumerate(names):
        height = rows.get(name.rpartition(".")[2], 2) * FLUX
        down, up = pair(index, height, 4)
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up, f"{name}.lora_B.bias": up[:, 0]}
    norms = {
        f"double_blocks.{i}.{s}_attn.norm.{n}_norm.scale": up[:4, 0]
        for i in range(19)
        for s in ("img", "txt")
        for n in ("query", "key")
    }
    norms |= {f"single_blocks.{i}.norm.{n}_norm.scale": up[:4, 0] for i in range(38) for n in ("query", "key")}
    tensors |= norms
    path = _file(tmp_path, tensors)
    found = inspect(path)
    assert (found.dialect, found.verdict) == ("bfl", "warn")
    assert any("LoRA bias" in finding.text for finding in found.findings)
    assert any("query_norm.scale" in finding.text for finding in found.findings)
    converted = stock._convert_bfl_flux_control_lora_to_diffusers({k: torch.from_numpy(v) for k, v in tensors.items()})
    ours, theirs = open_adapter(path), stock_adapter(converted)
    swapped = "transformer.norm_out.linear"  # diffusers 0.42 exchanges the halves of A there, too, which are ranks
    down, up = (tensors[f"final_layer.adaLN_modulation.1.lora_{half}.weight"] for half in "AB")
    np.testing.assert_allclose(ours.delta(swapped), np.roll(up, FLUX, 0) @ down, rtol=1e-4, atol=1e-6)
    rest = [{name: x for name, x in found.modules.items() if name != swapped} for found in (ours, theirs)]
    assert_equal(replace(ours, modules=rest[0]), replace(theirs, modules=rest[1]))


def test_a_widened_input_is_warned_of(tmp_path: Path) -> None:
    tensors = {f"img_in.lora_{half}.weight": x for half, x in zip("AB", pair(0, D, 128), strict=True)}
    tensors["double_blocks.0.img_attn.norm.query_norm.scale"] = np.ones(2, np.float32)
    found = inspect(_file(tmp_path, tensors))
    assert found.modules == ("transformer.x_embedder",)
    assert any("64 of them for a control image" in finding.text for finding in found.findings)


def test_the_spellings_merge_with_each_other(tmp_path: Path) -> None:
    fused = open_adapter(
        _file(tmp_path, {f"{QKV}.lora_{h}.weight": x for h, x in zip("AB", pair(0, 3 * D, D), strict=True)})
    )
    kohya = open_adapter(
        save_adapter(
            Adapter(
                "x",
                {**fused.modules, f"{SINGLE}.proj_out": in_memory_module(f"{SINGLE}.proj_out", *pair(1, D, D))},
                "memory",
            ),
            tmp_path / "k",
            "kohya",
        )
    )
    assert fused.modules.keys() < kohya.modules.keys()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("diffusion_model.transformer_blocks.0.attn.to_q", "transformer.transformer_blocks.0.attn.to_q"),
        ("diffusion_model.blocks.3.self_attn.q", "transformer.blocks.3.self_attn.q"),
        (
            "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_out.0",
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
        ),
        (
            "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        ),
    ],
)
def test_comfyuis_generic_names(tmp_path: Path, key: str, name: str) -> None:
    down, up = pair(0, D, D)
    adapter = open_adapter(_file(tmp_path, {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}))
    assert (adapter.dialect, list(adapter.modules)) == ("comfyui", [name])
