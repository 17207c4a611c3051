"""AdaLoRA's B diag(E) A is read as stock PEFT merges it: before pruning and after, at any alpha."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from peft.tuners.adalora import AdaLoraLayer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from studio.core.errors import Refused
from studio.formats import inspect, open_adapter, save_adapter
from tests.fixtures import peft_folder


class Model(nn.Module):
    """A linear layer, GPT-2's, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)
        self.conv1d = Conv1D(7, 6)
        self.head = nn.Linear(5, 2)


def trained(base: nn.Module, **config: Any) -> PeftModel:
    torch.manual_seed(0)
    settings = {"init_r": 4, "target_r": 2, "lora_alpha": 8, "target_modules": ["linear", "conv1d"], "total_step": 9}
    model = get_peft_model(base, AdaLoraConfig(**{**settings, **config}))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    return model


def merged_deltas(model: PeftModel, base: nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    """What stock PEFT adds to each weight, (d_out, d_in)."""
    names = [name for name, layer in model.base_model.model.named_modules() if isinstance(layer, AdaLoraLayer)]
    merged = copy.deepcopy(model).merge_and_unload()
    found = {}
    for name in names:
        after, before = merged.get_submodule(name), base.get_submodule(name)
        delta = (after.weight - before.weight).detach().double()
        found[name] = (delta.T if isinstance(before, Conv1D) else delta).numpy()
    return found


def assert_read(folder: Path, expected: dict[str, np.ndarray[Any, Any]]) -> None:
    adapter = open_adapter(folder)
    assert adapter.dialect == "adalora"
    assert adapter.modules.keys() == expected.keys()
    for name, delta in expected.items():
        np.testing.assert_allclose(adapter.delta(name), delta, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(
    "config", [{}, {"lora_alpha": 3, "init_r": 7}, {"lora_alpha": 0}, {"modules_to_save": ["head"]}]
)
def test_reads_what_peft_merges(tmp_path: Path, config: dict[str, Any]) -> None:
    base = Model()
    model = trained(copy.deepcopy(base), **config)
    model.save_pretrained(tmp_path)
    assert_read(tmp_path, merged_deltas(model, base))


def prune(model: PeftModel, kept: dict[str, list[bool]]) -> None:
    """What the allocator does at the end of training: masks the values and notes the ranks."""
    for name, mask in kept.items():
        layer = model.base_model.model.get_submodule(name)
        with torch.no_grad():
            layer.lora_E["default"][~torch.tensor(mask)] = 0
    pattern = {f"{name}.lora_E.default": mask for name, mask in kept.items()}
    model.base_model.resize_modules_by_rank_pattern(pattern, "default")
    model.peft_config["default"].rank_pattern = pattern


def test_reads_what_is_left_after_pruning_as_peft_loads_it(tmp_path: Path) -> None:
    base = Model()
    model = trained(copy.deepcopy(base))
    prune(model, {"linear": [True, False, True, False], "conv1d": [False, True, False, False]})
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "adapter_model.safetensors")["base_model.model.linear.lora_E"].shape == (2, 1)
    again = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    assert_read(tmp_path, merged_deltas(again, base))
    assert_read(tmp_path, merged_deltas(model, base))
    assert open_adapter(tmp_path).ranks == (1, 2)


def test_a_module_pruned_to_nothing_is_left_out_and_named(tmp_path: Path) -> None:
    model = trained(Model())
    prune(model, {"linear": [False] * 4, "conv1d": [True] * 4})
    model.save_pretrained(tmp_path)
    adapter = open_adapter(tmp_path)
    assert list(adapter.modules) == ["conv1d"]
    assert len(adapter.account().left_out) == 3
    assert any("pruned to rank 0" in finding.text for finding in adapter.findings)


def test_an_export_is_plain_lora_that_stock_peft_loads(tmp_path: Path) -> None:
    base = Model()
    model = trained(copy.deepcopy(base))
    model.save_pretrained(tmp_path / "in")
    out = save_adapter(open_adapter(tmp_path / "in"), tmp_path / "out")
    again = PeftModel.from_pretrained(copy.deepcopy(base), out).merge_and_unload()
    stock = copy.deepcopy(model).merge_and_unload()
    for name in ("linear", "conv1d"):
        torch.testing.assert_close(again.get_submodule(name).weight, stock.get_submodule(name).weight)


def test_a_stored_ranknum_that_the_config_contradicts_is_warned_of(tmp_path: Path) -> None:
    trained(Model()).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({**load_file(file), "base_model.model.linear.ranknum": torch.tensor([2.0])}, file)
    assert any("trained at rank 2" in f.text for f in inspect(tmp_path).findings if f.level == "warn")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"init_r": None}, "half a config"),
        ({"lora_alpha": None}, "half a config"),
        ({"peft_type": "LORA"}, "without its config"),
    ],
)
def test_without_what_gives_its_scaling_it_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    trained(Model()).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(Refused, match=reason):
        open_adapter(tmp_path)


def test_a_pair_without_singular_values_is_not_whole(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not whole"):
        open_adapter(peft_folder(tmp_path / "a", peft_type="ADALORA", init_r=4))
