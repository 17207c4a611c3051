"""Every dialect beside PEFT: one module, spelled in each way, reads as the same update under the same name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from studio.core.errors import Refused
from studio.formats import inspect, open_adapter
from studio.formats.modules import names
from studio.formats.modules.names import canonical, kernels, unet_by_index
from studio.formats.modules.parts import split_key
from tests.fixtures import TINY, mlx_folder, pair, peft_folder, weights_file

Arrays = dict[str, np.ndarray[Any, Any]]
TO_Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
UNDERSCORED = TO_Q.removeprefix("unet.").replace(".", "_")
DOWN, UP = pair(0, 320, 320)
ALPHA = np.array(1.0, np.float32)


def _file(tmp_path: Path, tensors: Arrays, metadata: dict[str, str] | None = None) -> Path:
    return weights_file(tmp_path / "x" / "lora.safetensors", tensors, metadata)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (f"lora_unet_{UNDERSCORED}", TO_Q),
        (f"lora_unet_unet_{UNDERSCORED}", TO_Q),
        (f"lycoris_{UNDERSCORED}", TO_Q),
        (f"lora_{TO_Q}", TO_Q),
        ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q", TO_Q),
        ("lora_unet_mid_block_resnets_1_conv_shortcut", "unet.mid_block_resnets_1_conv_shortcut"),
        ("lora_unet_output_blocks_2_1_conv", "unet.up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_output_blocks_2_2_conv", "unet.up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_input_blocks_3_0_op", "unet.down_blocks.0.downsamplers.0.conv"),
        (
            "lora_te_text_model_encoder_layers_11_self_attn_out_proj",
            "text_encoder.text_model.encoder.layers.11.self_attn.out_proj",
        ),
        ("lora_te2_text_model_encoder_layers_31_mlp_fc1", "text_encoder_2.text_model.encoder.layers.31.mlp.fc1"),
        ("lora_unet_double_blocks_3_img_attn_qkv", "transformer.double_blocks.3.img_attn.qkv"),
        ("lora_unet_single_blocks_37_linear1", "transformer.single_blocks.37.linear1"),
        ("lora_transformer_transformer_blocks_0_attn_to_q", "transformer.transformer_blocks.0.attn.to_q"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q", TO_Q),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q", TO_Q),
        ("unet.base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", TO_Q),
        ("mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out", None),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.to_q",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        ),
        (
            "text_encoder.encoder.layers.0.self_attn.q_proj",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        ),
    ],
)
def test_names(module: str, name: str | None) -> None:
    expected = name or "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    assert canonical(module).name == expected


def test_an_unknown_underscored_name_is_kept_and_said_so(tmp_path: Path) -> None:
    tensors = {"lora_unet_some_new_layer_7.lora_down.weight": DOWN, "lora_unet_some_new_layer_7.lora_up.weight": UP}
    found = inspect(_file(tmp_path, tensors))
    assert (found.verdict, found.modules) == ("warn", ("unet.some_new_layer_7",))
    assert "in no table" in found.findings[0].text


def test_tables_hold_the_whole_models() -> None:
    assert len([layer for layer in unet_by_index() if layer.ancestor in ("attention", "geglu")]) == 144
    assert kernels()["unet.conv_in"] == (3, 3)
    assert kernels()["unet.down_blocks.0.attentions.0.proj_in"] == (1, 1)


@pytest.mark.parametrize(
    ("down", "up", "dialect"),
    [
        (f"{TO_Q}.lora.down.weight", f"{TO_Q}.lora.up.weight", "diffusers"),
        (f"{TO_Q}.lora_A.weight", f"{TO_Q}.lora_B.weight", "diffusers"),
        (f"{TO_Q}.lora_A.default.weight", f"{TO_Q}.lora_B.default.weight", "diffusers"),
        (f"{TO_Q}.lora_A", f"{TO_Q}.lora_B", "diffusers"),
        (f"{TO_Q}.lora_down.weight", f"{TO_Q}.lora_up.weight", "diffusers"),
        (
            TO_Q.removeprefix("unet.").replace("to_q", "processor.to_q_lora.down.weight"),
            TO_Q.removeprefix("unet.").replace("to_q", "processor.to_q_lora.up.weight"),
            "diffusers",
        ),
        (f"lora_unet_{UNDERSCORED}.lora_down.weight", f"lora_unet_{UNDERSCORED}.lora_up.weight", "kohya"),
        (f"lora_unet_unet_{UNDERSCORED}_lora_down.weight", f"lora_unet_unet_{UNDERSCORED}_lora_up.weight", "kohya"),
    ],
)
def test_one_update_in_every_spelling(tmp_path: Path, down: str, up: str, dialect: str) -> None:
    adapter = open_adapter(_file(tmp_path, {down: DOWN, up: UP}))
    assert (adapter.dialect, list(adapter.modules)) == (dialect, [TO_Q])
    assert down in adapter.evidence or up in adapter.evidence
    np.testing.assert_allclose(adapter.delta(TO_Q), UP @ DOWN, rtol=1e-6)


def test_text_encoder_spelling(tmp_path: Path) -> None:
    stem = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer"
    adapter = open_adapter(_file(tmp_path, {f"{stem}.down.weight": DOWN, f"{stem}.up.weight": UP}))
    assert list(adapter.modules) == ["text_encoder.text_model.encoder.layers.0.self_attn.q_proj"]


def test_alpha_tensors_scale_and_their_lack_does_not(tmp_path: Path) -> None:
    stem = f"lora_unet_{UNDERSCORED}"
    tensors = {f"{stem}.lora_down.weight": DOWN, f"{stem}.lora_up.weight": UP}
    assert inspect(_file(tmp_path, tensors)).scaling == 1
    found = inspect(_file(tmp_path, {**tensors, f"{stem}.alpha": ALPHA}))
    assert (found.alpha, found.scaling) == (1, 0.5)


def test_convolutions_are_flattened(tmp_path: Path) -> None:
    stem = "lora_unet_down_blocks_0_resnets_0_conv1"
    rng = np.random.default_rng(1)
    down, up = rng.standard_normal((2, 6, 3, 3), np.float32), rng.standard_normal((5, 2, 1, 1), np.float32)
    adapter = open_adapter(_file(tmp_path, {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}))
    module = adapter.modules["unet.down_blocks.0.resnets.0.conv1"]
    assert (module.kind, module.kernel, module.shape) == ("conv", (3, 3), (5, 54))
    np.testing.assert_allclose(
        module.delta().reshape(5, 6, 3, 3), np.einsum("or,rikl->oikl", up[..., 0, 0], down), rtol=1e-4, atol=1e-6
    )


def test_locon_tucker(tmp_path: Path) -> None:
    stem = "lora_unet_down_blocks_0_resnets_0_conv1"
    rng = np.random.default_rng(2)
    down, up = rng.standard_normal((3, 6, 1, 1), np.float32), rng.standard_normal((5, 3, 1, 1), np.float32)
    mid = rng.standard_normal((3, 3, 3, 2), np.float32)
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.lora_mid.weight": mid}
    module = open_adapter(_file(tmp_path, {**tensors, f"{stem}.alpha": ALPHA})).modules[
        "unet.down_blocks.0.resnets.0.conv1"
    ]
    expected = np.einsum("om,mnkl,ni->oikl", up[..., 0, 0], mid, down[..., 0, 0]) / 3
    np.testing.assert_allclose(module.delta().reshape(5, 6, 3, 2), expected, rtol=1e-4, atol=1e-5)


def _random(seed: int, **shapes: tuple[int, ...]) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def _dense(parts: Arrays, which: str, kind: str) -> np.ndarray[Any, Any]:
    """One factor of LoHa or LoKr by LyCORIS's own formula, (out, in, ...)."""
    if f"{kind}_w{which}" in parts:
        return parts[f"{kind}_w{which}"]
    a, b = parts[f"{kind}_w{which}_a"], parts[f"{kind}_w{which}_b"]
    core = parts.get(f"{kind}_t{which}")
    return np.tensordot(a, b, 1) if core is None else np.einsum("ijkl,jr,ip->prkl", core, b, a)


LOHA: dict[str, Arrays] = {
    "plain": _random(3, hada_w1_a=(6, 2), hada_w1_b=(2, 5), hada_w2_a=(6, 2), hada_w2_b=(2, 5)),
    "tucker": _random(
        4,
        hada_w1_a=(2, 6),
        hada_w1_b=(2, 5),
        hada_t1=(2, 2, 3, 3),
        hada_w2_a=(2, 6),
        hada_w2_b=(2, 5),
        hada_t2=(2, 2, 3, 3),
    ),
}
LOKR: dict[str, Arrays] = {
    "both factored": _random(5, lokr_w1_a=(3, 2), lokr_w1_b=(2, 4), lokr_w2_a=(5, 2), lokr_w2_b=(2, 6)),
    "first full": _random(6, lokr_w1=(3, 4), lokr_w2_a=(5, 2), lokr_w2_b=(2, 6)),
    "both full": _random(7, lokr_w1=(4, 3), lokr_w2=(5, 6)),
    "conv": _random(8, lokr_w1=(3, 4), lokr_w2_a=(5, 2), lokr_w2_b=(2, 6, 3, 3)),
    "tucker": _random(9, lokr_w1=(3, 4), lokr_w2_a=(2, 5), lokr_w2_b=(2, 6), lokr_t2=(2, 2, 3, 3)),
}


@pytest.mark.parametrize("variant", LOHA)
def test_loha_is_exact(tmp_path: Path, variant: str) -> None:
    parts = LOHA[variant]
    stem = f"lora_unet_{UNDERSCORED}"
    adapter = open_adapter(_file(tmp_path, {f"{stem}.{k}": v for k, v in {**parts, "alpha": ALPHA}.items()}))
    module = adapter.modules[TO_Q]
    expected = 0.5 * _dense(parts, "1", "hada") * _dense(parts, "2", "hada")
    np.testing.assert_allclose(module.delta(), expected.reshape(6, -1), rtol=1e-4, atol=1e-5)
    assert (adapter.dialect, module.rank, module.kernel) == ("lycoris", 4, (3, 3) if variant == "tucker" else None)
    assert module.norm() == pytest.approx(np.linalg.norm(expected), rel=1e-5)


@pytest.mark.parametrize("variant", LOKR)
def test_lokr_is_exact(tmp_path: Path, variant: str) -> None:
    parts = LOKR[variant]
    stem = f"lora_unet_{UNDERSCORED}"
    adapter = open_adapter(_file(tmp_path, {f"{stem}.{k}": v for k, v in {**parts, "alpha": ALPHA}.items()}))
    module = adapter.modules[TO_Q]
    first, second = _dense(parts, "1", "lokr"), _dense(parts, "2", "lokr")
    scale = 1.0 if variant == "both full" else 0.5
    expected = scale * np.kron(first, second.reshape(5, -1))
    np.testing.assert_allclose(module.delta(), expected, rtol=1e-4, atol=1e-5)
    assert module.norm() == pytest.approx(np.linalg.norm(expected), rel=1e-5)
    if second.ndim == 4:  # LyCORIS multiplies 4-D tensors: first (o, i, 1, 1) with second (o, i, k, l)
        whole = np.kron(first[:, :, None, None], second) * scale
        np.testing.assert_allclose(module.delta().reshape(whole.shape), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["LoHa", "LoKr"])
def test_pefts_own_loha_and_lokr(tmp_path: Path, kind: str) -> None:
    import peft
    from torch import nn

    torch.manual_seed(0)
    config = getattr(peft, f"{kind}Config")(r=2, alpha=3, target_modules=["0", "1"])
    model = peft.get_peft_model(nn.Sequential(nn.Linear(12, 8), nn.Conv2d(4, 6, 3)), config)
    for name, parameter in model.named_parameters():
        if "hada" in name or "lokr" in name:
            nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    adapter = open_adapter(tmp_path)
    for name in ("0", "1"):
        delta = model.base_model.model[int(name)].get_delta_weight("default").detach().flatten(1).numpy()
        np.testing.assert_allclose(adapter.delta(name), delta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 3, 3, 3)])
def test_a_layers_whole_difference_is_exact(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """LyCORIS' full, and the odd layer of a distilled adapter; norms and biases beside it are left out and said so."""
    stem = f"lora_unet_{UNDERSCORED}"
    diff = np.random.default_rng(0).standard_normal(shape, np.float32)
    tensors = {
        f"{stem}.diff": diff,
        f"{stem}.diff_b": diff[:, 0],
        "lora_unet_conv_norm_out.diff": np.ones(4, np.float32),
    }
    found = inspect(_file(tmp_path, tensors))
    assert (found.verdict, found.modules, found.scaling) == ("warn", (TO_Q,), 1.0)
    assert "bias difference, full difference" in found.findings[0].text
    np.testing.assert_array_equal(open_adapter(_file(tmp_path, tensors)).delta(TO_Q), diff.reshape(shape[0], -1))


def test_a_flat_lokr_convolution_gets_its_kernel_back(tmp_path: Path) -> None:
    parts = _random(1, lokr_w1_a=(4, 2), lokr_w1_b=(2, 6), lokr_w2_a=(5, 2), lokr_w2_b=(2, 6))
    stem = "lora_unet_down_blocks_0_downsamplers_0_conv"
    module = open_adapter(_file(tmp_path, {f"{stem}.{k}": v for k, v in parts.items()})).modules
    assert module["unet.down_blocks.0.downsamplers.0.conv"].kernel == (3, 3)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("oft_blocks", "OFT"),
        ("a1.weight", "GLoRA"),
        ("on_input", "IA3"),
        ("w_norm", "norm"),
    ],
)
def test_other_kinds_alone_are_refused_and_beside_lora_are_left_out(tmp_path: Path, part: str, named: str) -> None:
    other = {f"lora_unet_conv_in.{part}": np.ones((2, 2), np.float32)}
    with pytest.raises(Refused, match=named):
        open_adapter(_file(tmp_path, other))
    stem = f"lora_unet_{UNDERSCORED}"
    found = inspect(_file(tmp_path, {**other, f"{stem}.lora_down.weight": DOWN, f"{stem}.lora_up.weight": UP}))
    assert (found.verdict, found.modules) == ("warn", (TO_Q,))
    assert f"1 tensors of other kinds than LoRA ({named})" in found.findings[0].text


def test_dora_is_refused(tmp_path: Path) -> None:
    stem = f"lora_unet_{UNDERSCORED}"
    tensors = {f"{stem}.lora_down.weight": DOWN, f"{stem}.lora_up.weight": UP, f"{stem}.dora_scale": UP[:, :1]}
    with pytest.raises(Refused, match="DoRA"):
        open_adapter(_file(tmp_path, tensors))


def test_unmatched_keys_are_counted(tmp_path: Path) -> None:
    tensors = {f"{TO_Q}.lora.down.weight": DOWN, f"{TO_Q}.lora.up.weight": UP, "mystery": UP}
    found = inspect(_file(tmp_path, tensors))
    assert found.verdict == "warn"
    assert "1 tensors match no LoRA name (mystery)" in found.findings[0].text


def test_diffusers_header_config(tmp_path: Path) -> None:
    header = {"unet.r": 2, "unet.lora_alpha": 6, "unet.use_rslora": True, "unet.peft_type": "LORA"}
    tensors = {f"{TO_Q}.lora_A.weight": DOWN, f"{TO_Q}.lora_B.weight": UP}
    found = inspect(_file(tmp_path, tensors, {"lora_adapter_metadata": json.dumps(header)}))
    assert found.scaling == pytest.approx(6 / 2**0.5)


def test_mlx(tmp_path: Path) -> None:
    adapter = open_adapter(mlx_folder(tmp_path / "a", scale=10.0))
    assert (adapter.dialect, adapter.base, set(adapter.modules)) == ("mlx", "tiny/base", set(TINY))
    name, (d_out, d_in) = next(iter(TINY.items()))
    down, up = pair(0, d_out, d_in)
    np.testing.assert_allclose(adapter.delta(name), 10 * up @ down, rtol=1e-5)


def test_mlx_without_config_says_what_it_assumes(tmp_path: Path) -> None:
    found = inspect(mlx_folder(tmp_path / "a", scale=None))
    assert (found.verdict, found.scaling) == ("warn", 20.0)


def test_mlx_dora_and_experts_are_refused(tmp_path: Path) -> None:
    three = np.ones((4, 2, 3), np.float32)
    for tensors in ({"a.lora_a": UP, "a.lora_b": DOWN, "a.m": ALPHA[None]}, {"a.lora_a": three, "a.lora_b": three}):
        with pytest.raises(Refused, match="not plain LoRA"):
            open_adapter(_file(tmp_path, tensors))


def _numbered(kinds: tuple[str, ...], text_width: int = 768) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    layers = [layer for layer in unet_by_index() if layer.ancestor in kinds]
    return [pair(i, x.d_out, text_width if x.d_in == 768 else x.d_in, 1) for i, x in enumerate(layers)]


def test_cloneofsimo_keys(tmp_path: Path) -> None:
    pairs = _numbered(("attention", "geglu"))
    tensors = {f"unet:{i}:down": down for i, (down, _) in enumerate(pairs)}
    tensors |= {f"unet:{i}:up": up for i, (_, up) in enumerate(pairs)}
    adapter = open_adapter(_file(tmp_path, tensors, {"unet": '["CrossAttention", "Attention", "GEGLU"]'}))
    assert adapter.dialect == "cloneofsimo"
    down, up = pairs[4]
    geglu = "unet.down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"
    np.testing.assert_allclose(adapter.delta(geglu), up @ down, rtol=1e-6)


def test_cloneofsimo_list_of_stable_diffusion_2(tmp_path: Path) -> None:
    pairs = _numbered(("attention",), text_width=1024)
    torch.save([torch.from_numpy(x) for down, up in pairs for x in (up, down)], tmp_path / "x.pt")
    adapter = open_adapter(tmp_path / "x.pt")
    assert len(adapter.modules) == 128
    assert adapter.modules["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"].d_in == 1024


def test_positions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    pairs = _numbered(("attention",))
    pairs[0], pairs[60] = pairs[60], pairs[0]
    torch.save([torch.from_numpy(x) for down, up in pairs for x in (up, down)], tmp_path / "x.pt")
    with pytest.raises(Refused, match="not Stable Diffusion"):
        open_adapter(tmp_path / "x.pt")


def test_sam_half_and_gap(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="half an adapter"):
        open_adapter(_file(tmp_path, {"w_a_000": DOWN, "w_a_001": DOWN}))
    gap = {f"w_{half}_{i:03}": x for i in (0, 2) for half, x in (("a", DOWN), ("b", UP))}
    with pytest.raises(Refused, match="gaps"):
        open_adapter(_file(tmp_path, gap))


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("encoder.weight", "a model's own weights.*tensors are named encoder"),
        ("something", "no adapter that is known here.*tensors are named something"),
        ("emb_params", "textual inversion"),
        ("lora_controlnet", "Control-LoRA"),
    ],
)
def test_keys_of_nothing_known_are_refused_with_examples(tmp_path: Path, key: str, named: str) -> None:
    with pytest.raises(Refused, match=named):
        open_adapter(_file(tmp_path, {key: UP}))


def test_the_folder_of_a_run_points_to_its_checkpoints(tmp_path: Path) -> None:
    peft_folder(tmp_path / "run" / "checkpoint-500")
    with pytest.raises(Refused, match="Open checkpoint-500 in it"):
        open_adapter(tmp_path / "run")


def test_llama_cpps_old_format_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "ggml-adapter-model.bin").write_bytes(b"algg\x01\0\0\0")
    with pytest.raises(Refused, match="ggla"):
        open_adapter(tmp_path)


def test_peft_is_not_taken_for_diffusers(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "a", modules={"transformer.h.0.attn.c_attn": (12, 4)})
    assert open_adapter(folder).dialect == "peft"
    assert open_adapter(folder).modules["transformer.h.0.attn.c_attn"].scaling == 2


def test_original_sdxl_names_translate_as_diffusers_own_converter_does() -> None:
    from diffusers.loaders import lora_conversion_utils as stock

    blocks = (
        [f"input_blocks.{i}.1." for i in (4, 5, 7, 8)]
        + [f"output_blocks.{i}.1." for i in range(6)]
        + ["middle_block.1."]
    )
    table = (line.split()[0] for line in names.table_lines("unet_ldm"))
    spelled = [
        f"lora_unet_{name.replace('.', '_')}"
        for name in table
        if name.startswith(tuple(blocks)) and ".transformer_blocks." in name
    ]
    state = {f"{key}.lora_{half}.weight": torch.zeros(2, 2) for key in spelled for half in ("down", "up")}
    config = SimpleNamespace(layers_per_block=2)
    mapped = stock._maybe_map_sgm_blocks_to_diffusers(state, config)
    converted, _ = stock._convert_non_diffusers_lora_to_diffusers(mapped)
    stock_names = {canonical(split[0]).name for key in converted if (split := split_key(key))}
    assert len(spelled) == 700
    assert {canonical(key).name for key in spelled} == stock_names
