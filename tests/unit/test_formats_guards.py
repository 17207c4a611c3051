"""What only looks like a pair is refused, 8-bit numbers are read exactly or refused, and no tensor is lost silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from studio.core.errors import Refused
from studio.formats import Inspection, inspect, open_adapter, save_adapter
from tests.fixtures import peft_folder

Q = "model.layers.0.self_attn.q_proj"
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TO_Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
COMFY = "diffusion_model.transformer_blocks.0.attn1.to_q"
SETTINGS = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "tiny/base"}


def rnd(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def peft(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any] | None = SETTINGS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"base_model.model.{key}": value for key, value in tensors.items()}, folder / "adapter_model.safetensors"
    )
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def pair(name: str = Q, rank: int = 4, d_out: int = 12, d_in: int = 16) -> dict[str, torch.Tensor]:
    return {f"{name}.lora_A.weight": rnd(rank, d_in), f"{name}.lora_B.weight": rnd(d_out, rank, seed=1)}


def file(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str] | None = None) -> Path:
    save_file(tensors, path / "x.safetensors", header)
    return path / "x.safetensors"


def kohya(stem: str = KOHYA) -> dict[str, torch.Tensor]:
    return {f"{stem}.lora_down.weight": rnd(4, 32), f"{stem}.lora_up.weight": rnd(32, 4, seed=1)}


def refusal(path: Path) -> str:
    """Why a file cannot be opened; `inspect` says the same."""
    with pytest.raises(Refused) as error:
        open_adapter(path)
    found = inspect(path)
    assert found.verdict == "refused"
    assert [finding.text for finding in found.findings] == [str(error.value)]
    return str(error.value)


def warnings_of(found: Inspection) -> list[str]:
    return [finding.text for finding in found.findings if finding.level == "warn"]


@pytest.mark.parametrize("config", [{**SETTINGS, "r": 8, "lora_alpha": 16}, None])
def test_one_square_matrix_stored_twice_is_refused_as_what_mora_does(tmp_path: Path, config: Any) -> None:
    square = rnd(32, 32)
    tensors = {f"{Q}.lora_A.weight": square, f"{Q}.lora_B.weight": square.clone()}
    assert "one square matrix stored twice, as MoRA does" in refusal(peft(tmp_path / "a", tensors, config))


def test_the_flag_of_mora_is_refused_by_name(tmp_path: Path) -> None:
    assert refusal(peft(tmp_path / "a", pair(), {**SETTINGS, "use_mora": True})).startswith("This is MoRA")


@pytest.mark.parametrize("config", [{"rank": 4, "alpha": 0.1}, None])
def test_matrices_stored_the_other_way_round_are_refused(tmp_path: Path, config: Any) -> None:
    tensors = {f"{Q}.lora_A.default.weight": rnd(64, 4), f"{Q}.lora_B.default.weight": rnd(4, 64)}
    assert "stored the other way round" in refusal(peft(tmp_path / "a", tensors, config))


@pytest.mark.parametrize("size", [(2, 16), (16, 2), (3, 3)])
def test_a_rank_that_the_file_promises_may_exceed_its_layer(tmp_path: Path, size: tuple[int, int]) -> None:
    folder = peft(tmp_path / "a", pair(rank=4, d_out=size[0], d_in=size[1]))
    assert inspect(folder).verdict == "ok"


@pytest.mark.parametrize("header", [None, {"ss_network_dim": "4"}])
def test_a_rank_between_both_sides_of_a_layer_is_read(tmp_path: Path, header: dict[str, str] | None) -> None:
    tensors = {f"{KOHYA}.lora_down.weight": rnd(4, 32), f"{KOHYA}.lora_up.weight": rnd(2, 4)}
    assert open_adapter(file(tmp_path, tensors, header)).ranks == (4,)


def test_another_rank_than_promised_is_refused_where_the_layer_cannot_hold_it(tmp_path: Path) -> None:
    folder = peft(tmp_path / "a", pair(rank=9, d_out=8, d_in=64))
    assert "rank 9 on a layer of 8 x 64; the file promises 4" in refusal(folder)


def test_empty_factors_are_named_as_what_zero_3_leaves(tmp_path: Path) -> None:
    tensors = {f"{Q}.lora_A.weight": torch.empty(0), f"{Q}.lora_B.weight": torch.empty(0)}
    assert "ZeRO-3" in refusal(peft(tmp_path / "a", tensors))
    half = {f"{Q}.lora_A.weight": rnd(4, 16), f"{Q}.lora_B.weight": torch.empty(0)}
    assert "ZeRO-3" in refusal(peft(tmp_path / "b", half))
    loha = {f"{KOHYA}.hada_w{i}_{half}": torch.empty(0) for i in (1, 2) for half in "ab"}
    assert "ZeRO-3" in refusal(file(tmp_path, loha))


def test_empty_heads_are_warned_of_and_never_written(tmp_path: Path) -> None:
    base = LlamaConfig(
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=9,
    )
    empty = {"model.embed_tokens.weight": torch.empty(0), "lm_head.weight": torch.empty(0)}
    saved = {**SETTINGS, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    folder = peft(tmp_path / "a", {**pair(d_out=16), **empty}, saved)
    found = inspect(folder)
    assert any("2 tensors that are empty, saved under DeepSpeed ZeRO-3" in text for text in warnings_of(found))
    adapter = open_adapter(folder)
    assert not adapter.extras
    out = save_adapter(adapter, tmp_path / "out")
    assert all(tensor.numel() for tensor in load_file(out / "adapter_model.safetensors").values())
    assert json.loads((out / "adapter_config.json").read_text())["modules_to_save"] is None
    PeftModel.from_pretrained(LlamaForCausalLM(base), out)


def test_one_process_s_slices_are_named(tmp_path: Path) -> None:
    tensors = {f"{Q}.lora_A.weight": rnd(2, 16), f"{Q}.lora_B.weight": rnd(6, 4)}
    assert "FSDP" in refusal(peft(tmp_path / "a", tensors))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool])
def test_whole_numbers_without_a_scale_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {key: (value * 100).to(dtype) for key, value in pair().items()}
    assert "no scale beside it" in refusal(peft(tmp_path / "a", tensors))


def quantise(tensor: torch.Tensor, dtype: torch.dtype, by_row: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """8-bit numbers that fill their range, and the scale that undoes it."""
    largest = tensor.abs().amax(1, keepdim=True) if by_row else tensor.abs().max()
    scale = largest / (127 if dtype == torch.int8 else torch.finfo(dtype).max)
    divided = tensor / scale
    return (divided.round() if dtype == torch.int8 else divided).to(dtype), scale


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("ending", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("spelling", ["comfyui", "peft"])
def test_scaled_numbers_of_8_bits_are_read_exactly(
    tmp_path: Path, dtype: torch.dtype, by_row: bool, ending: str, spelling: str
) -> None:
    down, up = rnd(4, 32), rnd(32, 4, seed=1)
    (a, sa), (b, sb) = quantise(down, dtype, by_row), quantise(up, dtype, by_row)
    stem = COMFY if spelling == "comfyui" else Q
    halves = ("lora_down", "lora_up") if spelling == "comfyui" else ("lora_A", "lora_B")
    tensors = {}
    for half, values, scale in zip(halves, (a, b), (sa, sb), strict=True):
        tensors |= {f"{stem}.{half}.weight": values, f"{stem}.{half}.{ending}": scale}
    path = file(tmp_path, tensors) if spelling == "comfyui" else peft(tmp_path / "a", tensors)
    adapter = open_adapter(path)
    (module,) = adapter.modules.values()
    expected = module.scaling * (b.float() * sb).numpy() @ (a.float() * sa).numpy()
    np.testing.assert_allclose(module.delta(), expected, rtol=1e-6, atol=1e-9)
    assert {row.fate for row in adapter.account().tensors} == {"module"}
    assert not adapter.findings or "scale" not in " ".join(warnings_of(inspect(path)))


def test_a_scale_of_another_shape_is_refused(tmp_path: Path) -> None:
    a, _ = quantise(rnd(4, 32), torch.float8_e4m3fn, False)
    tensors = {**kohya(COMFY), f"{COMFY}.lora_down.weight": a, f"{COMFY}.lora_down.weight_scale": rnd(2, 2)}
    assert "scaled in a way that is not known" in refusal(file(tmp_path, tensors))


def test_8_bit_floats_that_fill_their_range_have_lost_their_scale(tmp_path: Path) -> None:
    tensors = {key: quantise(value, torch.float8_e4m3fn, False)[0] for key, value in kohya().items()}
    assert "its scale is not in the file" in " ".join(f.text for f in inspect(file(tmp_path, tensors)).findings)
    assert inspect(tmp_path / "x.safetensors").verdict == "refused"
    with pytest.raises(Refused, match="its scale is not in the file"):
        open_adapter(tmp_path / "x.safetensors").delta(TO_Q)


def test_plain_8_bit_floats_are_read_with_a_warning(tmp_path: Path) -> None:
    tensors = {key: value.to(torch.float8_e4m3fn) for key, value in kohya().items()}
    path = file(tmp_path, tensors)
    assert any("stored in 8 bits without a scale" in text for text in warnings_of(inspect(path)))
    down, up = (value.float().numpy() for value in tensors.values())
    np.testing.assert_allclose(open_adapter(path).delta(TO_Q), up @ down, rtol=1e-5, atol=1e-8)


def test_a_scale_beside_plain_numbers_refuses_the_pair(tmp_path: Path) -> None:
    tensors = {**kohya(), f"{KOHYA}.lora_down.weight_scale": torch.tensor(2.0)}
    assert "lora_down.weight_scale stands under its path" in refusal(file(tmp_path, tensors))


@pytest.mark.parametrize(
    ("part", "shape"),
    [("diff", (32, 32)), ("set_weight", (32, 32)), ("oft_blocks", (2, 4, 4)), ("on_input", ()), ("w_norm", (32,))],
)
def test_a_second_update_of_a_pairs_layer_refuses_it(tmp_path: Path, part: str, shape: tuple[int, ...]) -> None:
    text = refusal(file(tmp_path, {**kohya(), f"{KOHYA}.{part}": rnd(*shape)}))
    assert KOHYA in text
    assert part in text


@pytest.mark.parametrize("part", ["diff_b", "b_norm", "reshape_weight"])
def test_a_bias_beside_a_pair_is_left_out_and_named(tmp_path: Path, part: str) -> None:
    adapter = open_adapter(file(tmp_path, {**kohya(), f"{KOHYA}.{part}": rnd(32)}))
    assert [row.key for row in adapter.account().left_out] == [f"{KOHYA}.{part}"]
    assert any(f"{KOHYA}.{part}" in finding.text for finding in adapter.findings)


def test_an_orphan_alpha_is_warned_of_and_the_rest_is_read(tmp_path: Path) -> None:
    orphan = "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"
    path = file(tmp_path, {**kohya(), f"{KOHYA}.alpha": torch.tensor(2.0), orphan: torch.tensor(2.0)})
    found = inspect(path)
    assert (found.verdict, found.scaling) == ("warn", 0.5)
    assert any(orphan in text for text in warnings_of(found))


def test_alphas_of_some_modules_only_are_warned_of(tmp_path: Path) -> None:
    other = KOHYA.replace("to_q", "to_k")
    found = inspect(file(tmp_path, {**kohya(), **kohya(other), f"{KOHYA}.alpha": torch.tensor(2.0)}))
    assert any("1 of 2 modules have no alpha" in text for text in warnings_of(found))


@pytest.mark.parametrize("doubled", ["default.default", "mine.mine"])
def test_an_adapters_name_given_twice_is_read(tmp_path: Path, doubled: str) -> None:
    tensors = {key.replace(".weight", f".{doubled}.weight"): value for key, value in pair().items()}
    assert list(open_adapter(peft(tmp_path / "a", tensors)).modules) == [Q]


@pytest.mark.parametrize("ending", ["weight.absmax", "mask", "weight.quant_map"])
def test_what_stands_under_a_factor_is_no_second_adapter(tmp_path: Path, ending: str) -> None:
    tensors = {**pair(), f"{Q}.lora_A.{ending}": rnd(4), f"{Q}.lora_B.{ending}": rnd(4)}
    assert f"{Q}.lora_A.{ending}" in refusal(peft(tmp_path / "a", tensors))


def test_a_head_under_the_adapters_own_name_is_carried_and_the_base_is_left_out(tmp_path: Path) -> None:
    named = {key.replace(".weight", ".mine.weight"): value for key, value in pair().items()}
    head = {"score.modules_to_save.mine.weight": rnd(3, 16), "score.original_module.weight": rnd(3, 16)}
    adapter = open_adapter(peft(tmp_path / "a", {**named, **head}, {**SETTINGS, "modules_to_save": ["score"]}))
    assert list(adapter.extras) == ["score.weight"]
    assert [row.key for row in adapter.account().left_out] == ["base_model.model.score.original_module.weight"]
    assert any("of the base itself" in f.text and f.level == "note" for f in adapter.findings)


def test_a_head_given_twice_is_kept_once_and_named(tmp_path: Path) -> None:
    head = {"score.modules_to_save.default.weight": rnd(3, 16), "score.weight": rnd(3, 16, seed=2)}
    adapter = open_adapter(peft(tmp_path / "a", {**pair(), **head}))
    assert list(adapter.extras) == ["score.weight"]
    assert len(adapter.account().left_out) == 1
    assert any("score.weight" in text and "twice" in text for text in warnings_of(inspect(tmp_path / "a")))


def test_an_embedding_saved_whole_beside_its_pair_is_an_extra(tmp_path: Path) -> None:
    modules = {"model.embed_tokens": (8, 11)}
    whole = {"model.embed_tokens.base_layer.weight": np.ones((11, 8), np.float32)}
    adapter = open_adapter(peft_folder(tmp_path / "a", modules=modules, extras=whole))
    assert list(adapter.extras) == ["model.embed_tokens.weight"]


def test_every_scaling_says_who_gives_it(tmp_path: Path) -> None:
    patterns = {f"^{Q}": 32}
    adapter = open_adapter(peft_folder(tmp_path / "a", alpha_pattern=patterns))
    rows = {row.module: row for row in adapter.account().scalings}
    assert rows[Q].scaling == 8
    assert rows[Q].source.text == f'alpha_pattern["^{Q}"] of adapter_config.json: 32 / 4'
    other = rows["model.layers.0.self_attn.v_proj"]
    assert other.source.text == "lora_alpha of adapter_config.json: 8 / 4"
    assert not other.source.is_default


def test_the_account_is_in_the_json_and_a_default_is_marked(tmp_path: Path) -> None:
    found = inspect(peft(tmp_path / "a", {**pair(), "score.weight": rnd(3, 16)}, None)).to_json()
    account = found["account"]
    assert [(row["key"].removeprefix("base_model.model."), row["fate"]) for row in account["tensors"]] == [
        (f"{Q}.lora_A.weight", "module"),
        (f"{Q}.lora_B.weight", "module"),
        ("score.weight", "extra"),
    ]
    assert account["scalings"] == [
        {
            "module": Q,
            "scaling": 1.0,
            "source": "no adapter_config.json beside the weights: scaling taken as 1",
            "default": True,
        }
    ]
    json.dumps(found, allow_nan=False)
