"""What is no LoRA is refused by its name, whether a config tells it, a parameter or a trainer's spelling."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from peft import PeftType

from studio.core.errors import Refused
from studio.formats import open_adapter
from studio.formats.modules.other_kinds import PEFT_TYPES, kind_of_keys
from tests.fixtures import peft_folder, weights_file

READ = {"LORA", "LOHA", "LOKR", "ADALORA"}
OTHERS = sorted(kind.value for kind in PeftType if kind.value not in READ)


def test_every_kind_of_the_installed_peft_has_a_name() -> None:
    assert PEFT_TYPES.keys() >= set(OTHERS)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_config_tells_the_kind(tmp_path: Path, kind: str) -> None:
    with pytest.raises(Refused, match=f"This is {re.escape(PEFT_TYPES[kind])}, not LoRA"):
        open_adapter(peft_folder(tmp_path / "a", peft_type=kind))


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("vblora_vector_bank", "VB-LoRA"),
        ("layers.0.q_proj.vblora_logits_A", "VB-LoRA"),
        ("layers.0.q_proj.vera_lambda_b", "VeRA"),
        ("layers.0.q_proj.boft_R", "BOFT"),
        ("layers.0.q_proj.oft_R", "OFT"),
        ("layers.0.q_proj.ia3_l", "IA3"),
        ("layers.0.q_proj.hra_u", "HRA"),
        ("layers.0.q_proj.fourierft_spectrum", "FourierFT"),
        ("layers.0.q_proj.c3a_kernel", "C3A"),
        ("layers.0.q_proj.miss_block", "MiSS"),
        ("layers.0.q_proj.randlora_lambda", "RandLora"),
        ("prompt_embeddings", "prompt tuning"),
    ],
)
@pytest.mark.parametrize("config", [True, False])
def test_a_parameter_tells_the_kind(tmp_path: Path, key: str, kind: str, config: bool) -> None:
    file = weights_file(tmp_path / "adapter_model.safetensors", {f"base_model.model.{key}": np.ones((4, 4), "f4")})
    if config:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4}))
    with pytest.raises(Refused, match=f"This is (a )?{kind}"):
        open_adapter(file)


def test_a_module_whose_name_begins_like_a_kind_is_read(tmp_path: Path) -> None:
    modules = {"road_encoder.layers.0.vera_proj": (6, 8)}
    assert list(open_adapter(peft_folder(tmp_path / "a", modules=modules)).modules) == list(modules)


def test_t_lora_is_refused_by_name(tmp_path: Path) -> None:
    stem = "lycoris_transformer_blocks_0_attn_to_q"
    parts = {"q_layer.weight": (8, 16), "p_layer.weight": (16, 8), "lambda_layer": (1, 8), "alpha": ()}
    file = weights_file(tmp_path / "x.safetensors", {f"{stem}.{part}": np.ones(s, "f4") for part, s in parts.items()})
    with pytest.raises(Refused, match="This is T-LoRA, not LoRA"):
        open_adapter(file)


@pytest.mark.parametrize("config", [True, False])
def test_a_share_of_a_sharded_model_is_named(tmp_path: Path, config: bool) -> None:
    key = "base_model.model.layers.0._fsdp_wrapped_module._flat_param"
    file = weights_file(tmp_path / "adapter_model.safetensors", {key: np.ones(64, "f4")})
    if config:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4}))
    with pytest.raises(Refused, match="one process's share of a sharded model"):
        open_adapter(file)


def test_keys_of_a_plain_model_tell_no_kind() -> None:
    assert kind_of_keys(["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"]) is None
