"""Every field of PEFT's LoraConfig is treated as the table says, and the table has every field."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from studio.core.errors import Refused
from studio.formats import inspect, open_adapter, save_adapter
from studio.formats.modules.peft_fields import FIELDS, HOW
from tests.fixtures import peft_folder

Q = "model.layers.0.self_attn.q_proj"
# A value of each field that is not its default.
VALUES: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 2,
    "use_rslora": True,
    "rank_pattern": {"q_proj": 2},
    "alpha_pattern": {"q_proj": 1},
    "target_parameters": ["experts.gate_up_proj"],
    "base_model_name_or_path": "other/base",
    "fan_in_fan_out": True,
    "bias": "all",
    "modules_to_save": ["lm_head"],
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": [3, 5],
    "target_modules": ["q_proj"],
    "exclude_modules": ["v_proj"],
    "layers_to_transform": [0],
    "layers_pattern": "layers",
    "layer_replication": [[0, 1], [0, 1]],
    "alora_invocation_tokens": [1, 2],
    "arrow_config": {"top_k": 2},
    "velora_config": {"groups": 2},
    "ensure_weight_tying": True,
    "init_lora_weights": "pissa",
    "use_dora": True,
    "lora_bias": True,
    "use_qalora": True,
    "use_bdlora": {"nblocks": 2},
    "kasa_config": {"beta": 1},
    "monteclora_config": {"n": 2},
    "qalora_group_size": 32,
    "lora_dropout": 0.3,
    "inference_mode": True,
    "revision": "abc",
    "peft_version": "0.21.2",
    "auto_mapping": {"base_model_class": "X"},
    "loftq_config": {"loftq_bits": 4},
    "eva_config": {"rho": 2.0},
    "corda_config": {"corda_method": "kpm"},
    "lora_ga_config": {"direction": "x"},
    "megatron_config": {"hidden_size": 8},
    "megatron_core": "megatron.core",
    "runtime_config": {"ephemeral_gpu_offload": True},
}


def test_the_table_has_every_field_of_the_installed_peft() -> None:
    assert {field.name for field in dataclasses.fields(LoraConfig)} == FIELDS.keys() == VALUES.keys()
    assert {treatment.how for treatment in FIELDS.values()} == HOW.keys()


def plain_and_with(tmp_path: Path, field: str) -> tuple[Path, Path]:
    return peft_folder(tmp_path / "plain"), peft_folder(tmp_path / "with", **{field: VALUES[field]})


@pytest.mark.parametrize("field", [name for name, t in FIELDS.items() if t.how in ("tensors", "training")])
def test_what_changes_nothing_changes_nothing(tmp_path: Path, field: str) -> None:
    plain, given = plain_and_with(tmp_path, field)
    one, other = inspect(plain), inspect(given)
    assert (one.verdict, one.findings) == (other.verdict, other.findings)
    for name in one.modules:
        np.testing.assert_array_equal(open_adapter(plain).delta(name), open_adapter(given).delta(name))


@pytest.mark.parametrize("field", [name for name, t in FIELDS.items() if t.how == "carried"])
def test_what_is_carried_is_in_the_adapters_config(tmp_path: Path, field: str) -> None:
    _, given = plain_and_with(tmp_path, field)
    held = open_adapter(given).config[field]
    assert list(held) == VALUES[field] if isinstance(VALUES[field], list) else held == VALUES[field]


@pytest.mark.parametrize("field", [name for name, t in FIELDS.items() if t.how == "warned"])
def test_what_is_warned_of_is_read_with_that_warning(tmp_path: Path, field: str) -> None:
    plain, given = plain_and_with(tmp_path, field)
    found = inspect(given)
    said = [finding.text for finding in found.findings if finding.level == "warn"]
    assert found.verdict == "warn"
    assert said == [FIELDS[field].text] or (field == "init_lora_weights" and "alters the base" in said[0])
    np.testing.assert_array_equal(open_adapter(plain).delta(Q), open_adapter(given).delta(Q))


@pytest.mark.parametrize("field", [name for name, t in FIELDS.items() if t.how == "refused"])
def test_what_is_refused_is_refused_by_name(tmp_path: Path, field: str) -> None:
    with pytest.raises(Refused) as refusal:
        open_adapter(plain_and_with(tmp_path, field)[1])
    assert FIELDS[field].text.lower() in str(refusal.value).lower()


@pytest.mark.parametrize(
    ("field", "scaling"),
    [("lora_alpha", 0.5), ("use_rslora", 4.0), ("alpha_pattern", 0.25), ("rank_pattern", 4.0), ("r", 4.0)],
)
def test_what_decides_the_scaling(tmp_path: Path, field: str, scaling: float) -> None:
    """Rank 4 and alpha 8 unless the field says otherwise; tensors are made to fit."""
    argument = {"lora_alpha": "alpha", "use_rslora": "rslora", "r": "rank"}.get(field, field)
    folder = peft_folder(tmp_path / "a", **{argument: VALUES[field]})
    assert open_adapter(folder).modules[Q].scaling == scaling


def test_a_setting_that_nobody_knows_is_noted(tmp_path: Path) -> None:
    found = inspect(peft_folder(tmp_path / "a", new_trick=True, lora_dtype=None))
    assert found.verdict == "ok"
    assert "lora_dtype, new_trick" in found.findings[0].text


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("use_mora", True, "This is MoRA, not plain LoRA"),
        ("use_new_trick", True, "use_new_trick"),
        ("use_new_trick", {"depth": 2}, "use_new_trick"),
        ("use_new_trick", "auto", "use_new_trick"),
        ("trick_config", {"depth": 2}, "trick_config"),
        ("trick_config", [1], "trick_config"),
    ],
)
def test_a_switch_that_nobody_knows_is_refused_by_name(tmp_path: Path, field: str, value: Any, named: str) -> None:
    folder = peft_folder(tmp_path / "a", **{field: value})
    with pytest.raises(Refused, match=named):
        open_adapter(folder)
    assert inspect(folder).verdict == "refused"


@pytest.mark.parametrize("value", [None, False, {}])
def test_a_switch_that_is_off_changes_nothing(tmp_path: Path, value: Any) -> None:
    folder = peft_folder(tmp_path / "a", use_mora=value, mora_type=6, trick_config=value)
    assert inspect(folder).verdict == "ok"


@pytest.mark.parametrize("wrong", ["all", [1.5], {"embed": "x"}])
def test_token_numbers_are_checked(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(Refused, match="trainable_token_indices"):
        open_adapter(peft_folder(tmp_path / "a", trainable_token_indices=wrong))


def test_trained_tokens_are_carried_into_stock_peft(tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 6)
            self.linear = nn.Linear(6, 5)

        def get_input_embeddings(self) -> nn.Module:
            return self.embed

    base = Model()
    config = LoraConfig(r=2, target_modules=["linear"], trainable_token_indices={"embed": [3, 5]})
    model = get_peft_model(copy.deepcopy(base), config)
    rows = model.base_model.model.embed.token_adapter.trainable_tokens_delta["default"]
    nn.init.normal_(rows)
    model.save_pretrained(tmp_path / "in")
    adapter = open_adapter(tmp_path / "in")
    assert list(adapter.extras) == ["embed.token_adapter.trainable_tokens_delta"]
    again = PeftModel.from_pretrained(base, save_adapter(adapter, tmp_path / "out")).base_model.model
    torch.testing.assert_close(again.embed.token_adapter.trainable_tokens_delta["default"].data, rows.data)
    torch.testing.assert_close(again.embed(torch.arange(11)), model.base_model.model.embed(torch.arange(11)))
