"""Transformers in their original spellings: each reads as diffusers' converters say, all meet under one name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.loaders import lora_conversion_utils as stock

from studio.core.adapter import Adapter, in_memory_module
from studio.core.errors import Refused
from studio.formats import inspect, open_adapter, save_adapter
from studio.formats.modules import names
from studio.formats.modules.names import table_lines
from studio.formats.modules.originals import fuse, is_original, split_fused
from studio.formats.saving import relative_error
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
    with pytest.raises(Refused, match="appears twice"):
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
        ("diffusion_model.some_blocks.3.attention.q", "transformer.some_blocks.3.attention.q"),
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


def _random_file(
    path: Path, layers: dict[str, tuple[int, int]], prefix: str = "diffusion_model."
) -> tuple[Path, Arrays]:
    tensors: Arrays = {}
    for index, (name, (d_out, d_in)) in enumerate(layers.items()):
        stem = prefix + name
        tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"] = pair(index, d_out, d_in, 2)
    return _file(path, tensors), tensors


def _wan(width: int = D) -> dict[str, tuple[int, int]]:
    attention = [f"{part}_attn.{name}" for part in ("self", "cross") for name in "qkvo"] + ["cross_attn.k_img"]
    inner = dict.fromkeys([*attention, "cross_attn.v_img"], (width, width)) | {"ffn.0": (4 * width, width)}
    ends = dict.fromkeys(("time_projection.1", "text_embedding.0", "text_embedding.2", "head.head"), (width, width))
    blocks = {f"blocks.{block}.{name}": shape for block in (0, 11) for name, shape in inner.items()}
    return {**blocks, "blocks.0.ffn.2": (width, 4 * width), **ends}


def _flux2(width: int = D) -> dict[str, tuple[int, int]]:
    inner = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    inner |= {"mlp.0": (6 * width, width), "mlp.2": (width, 3 * width)}
    double = {f"double_blocks.1.{stream}_{name}": shape for stream in ("img", "txt") for name, shape in inner.items()}
    single = {"single_blocks.1.linear1": (9 * width, width), "single_blocks.1.linear2": (width, 4 * width)}
    return {**double, **single, "img_in": (width, 4), "double_stream_modulation_img.lin": (6 * width, width)}


def _hunyuan() -> dict[str, tuple[int, int]]:
    inner = {
        "attn_qkv": (3 * FLUX, 4),
        "attn_proj": (8, 4),
        "mlp.fc1": (16, 4),
        "mlp.fc2": (4, 16),
        "mod.linear": (24, 4),
    }
    double = {f"double_blocks.1.{stream}_{name}": shape for stream in ("img", "txt") for name, shape in inner.items()}
    single = {"linear1": (7 * FLUX, 4), "linear2": (8, 4), "modulation.linear": (9, 4)}
    return {
        **double,
        **{f"single_blocks.2.{name}": shape for name, shape in single.items()},
        "vector_in.in_layer": (8, 4),
    }


def _lumina2() -> dict[str, tuple[int, int]]:
    inner = {"attention.qkv": (3840, 2304), "attention.out": (8, 4)}
    inner |= {f"feed_forward.w{i}": (8, 4) for i in (1, 2, 3)}
    layers = {
        f"{part}.0.{name}": shape
        for part in ("layers", "noise_refiner", "context_refiner")
        for name, shape in inner.items()
    }
    return {**layers, "layers.0.adaLN_modulation.1": (8, 4), "noise_refiner.0.adaLN_modulation.1": (8, 4)}


MODELS = {
    "wan": (_wan(), stock._convert_non_diffusers_wan_lora_to_diffusers),
    "flux2": (_flux2(), stock._convert_non_diffusers_flux2_lora_to_diffusers),
    "hunyuan_video": (_hunyuan(), stock._convert_hunyuan_video_lora_to_diffusers),
    "lumina2": (_lumina2(), stock._convert_non_diffusers_lumina2_lora_to_diffusers),
}


@pytest.mark.parametrize("model", MODELS)
def test_original_names_read_as_diffusers_converts_them(tmp_path: Path, model: str) -> None:
    layers, convert = MODELS[model]
    path, tensors = _random_file(tmp_path, layers)
    state = convert({key: torch.from_numpy(value.copy()) for key, value in tensors.items()})
    prefixed = {key if key.startswith("transformer.") else f"transformer.{key}": value for key, value in state.items()}
    adapter = open_adapter(path)
    assert adapter.dialect == "comfyui"
    assert_equal(adapter, stock_adapter(prefixed))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blocks_11_cross_attn_k_img", "blocks.11.cross_attn.k_img"),
        ("transformer_blocks_7_attn_to_add_out", "transformer_blocks.7.attn.to_add_out"),
        ("transformer_blocks_59_img_mlp_net_0_proj", "transformer_blocks.59.img_mlp.net.0.proj"),
        ("layers_29_attention_to_out_0", "layers.29.attention.to_out.0"),
        ("layers_3_feed_forward_w1", "layers.3.feed_forward.w1"),
        ("joint_blocks_23_context_block_attn_qkv", "joint_blocks.23.context_block.attn.qkv"),
        ("double_blocks_0_img_attn_qkv", "double_blocks.0.img_attn.qkv"),
        ("double_stream_modulation_img_lin", "double_stream_modulation_img.lin"),
        (
            "txt_in_individual_token_refiner_blocks_1_self_attn_qkv",
            "txt_in.individual_token_refiner.blocks.1.self_attn_qkv",
        ),
        ("distilled_guidance_layer_layers_2_linear_1", "distilled_guidance_layer.layers.2.linear_1"),
        ("caption_projection_linear_2", "caption_projection.linear_2"),
    ],
)
def test_underscored_names_of_every_transformer(name: str, expected: str) -> None:
    for prefix in ("lora_unet_", "lora_transformer_", "lycoris_"):
        assert names.canonical(prefix + name) == (f"transformer.{expected}", True)


@pytest.mark.parametrize("table", ["wan", "hunyuan_video", "sd3", "flux2", "lumina2", "z_image"])
def test_every_part_of_an_original_layer_is_a_layer_of_the_model(table: str) -> None:
    """The right column of each table, against the module names read off diffusers' classes."""
    known = {line.split()[1] for line in table_lines("transformers")}
    parts = {part.partition("*")[0] for line in table_lines(f"{table}_original") for part in line.split()[1:]}
    unknown = {part for part in parts if names.block_template(part.format(0)) not in known}
    assert unknown == set()


def test_one_wan_update_in_every_spelling(tmp_path: Path) -> None:
    down, up = pair(0, D, D)
    name = "blocks.3.self_attn.q"
    spellings = {
        f"diffusion_model.{name}.lora_A.weight": f"diffusion_model.{name}.lora_B.weight",
        f"{name}.lora_A.default.weight": f"{name}.lora_B.default.weight",
        "lora_unet_blocks_3_self_attn_q.lora_down.weight": "lora_unet_blocks_3_self_attn_q.lora_up.weight",
        "transformer.blocks.3.attn1.to_q.lora_A.weight": "transformer.blocks.3.attn1.to_q.lora_B.weight",
    }
    for down_key, up_key in spellings.items():
        adapter = open_adapter(_file(tmp_path, {down_key: down, up_key: up}))
        assert list(adapter.modules) == ["transformer.blocks.3.attn1.to_q"], down_key
        np.testing.assert_allclose(adapter.delta("transformer.blocks.3.attn1.to_q"), up @ down, rtol=1e-5)


def test_z_images_fused_attention_is_split_in_equal_parts_and_lumina2s_is_not(tmp_path: Path) -> None:
    name = "diffusion_model.layers.0.attention.qkv"
    for d_out, heights in ((3 * 6, [6, 6, 6]), (5 * 2, [6, 2, 2])):
        down, up = pair(0, d_out, 6)
        adapter = open_adapter(_file(tmp_path, {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}))
        assert [module.d_out for module in adapter.modules.values()] == heights
        np.testing.assert_allclose(np.vstack([adapter.delta(part) for part in adapter.modules]), up @ down, rtol=1e-5)
