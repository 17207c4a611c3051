"""LoRA on fused experts (PEFT's target_parameters): read and written as stock PEFT computes it, expert by expert."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import ParamWrapper
from torch import nn

from studio.core.errors import LoomError, Refused
from studio.formats import open_adapter, save_adapter
from tests.fixtures import peft_folder

EXPERTS, HIDDEN, INNER = 3, 6, 5


class Experts(nn.Module):
    """Parameters as transformers 5 fuses them, (E, out, in)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(EXPERTS, 2 * INNER, HIDDEN))
        self.down_proj = nn.Parameter(torch.randn(EXPERTS, HIDDEN, INNER))


class Model(nn.Module):
    """A router's layer beside its experts."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HIDDEN)
        self.experts = Experts()


def wrapped(base: nn.Module, parameters: list[str]) -> PeftModel:
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"], target_parameters=parameters)
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    return model


def stock_deltas(model: PeftModel) -> dict[str, np.ndarray[Any, Any]]:
    """PEFT's own update of every expert, (out, in)."""
    wrappers = [layer for layer in model.modules() if isinstance(layer, ParamWrapper)]
    return {
        f"experts.{wrapper.parameter_name}.{expert}": delta.numpy()
        for wrapper in wrappers
        for expert, delta in enumerate(wrapper.get_delta_weight("default").detach())
    }


@pytest.mark.parametrize(
    "parameters", [["experts.gate_up_proj", "experts.down_proj"], ["experts.down_proj"], ["experts.gate_up_proj"]]
)
def test_every_expert_is_a_pair_and_stock_peft_loads_the_export(tmp_path: Path, parameters: list[str]) -> None:
    base = Model()
    model = wrapped(copy.deepcopy(base), parameters)
    model.save_pretrained(tmp_path / "in")
    expected, adapter = stock_deltas(model), open_adapter(tmp_path / "in")
    assert len(expected) == EXPERTS * len(parameters)
    assert adapter.modules.keys() == {"q_proj", *expected}
    assert {module.kind for name, module in adapter.modules.items() if name != "q_proj"} == {"expert"}
    for name, delta in expected.items():
        np.testing.assert_allclose(adapter.delta(name), delta, rtol=1e-4, atol=1e-5)
    again = stock_deltas(PeftModel.from_pretrained(base, save_adapter(adapter, tmp_path / "out")))
    assert again.keys() == expected.keys()
    for name, delta in expected.items():
        np.testing.assert_allclose(again[name], delta, rtol=1e-4, atol=1e-5)


def test_other_formats_refuse_experts(tmp_path: Path) -> None:
    wrapped(Model(), ["experts.down_proj"]).save_pretrained(tmp_path / "in")
    with pytest.raises(LoomError, match="holds no LoRA on fused experts"):
        save_adapter(open_adapter(tmp_path / "in"), tmp_path / "out", "mlx")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "do not name model.experts"),
        ({"target_parameters": ["experts.w1", "experts.w2"]}, "order of w1, w2"),
        ({"target_parameters": ["experts.gate_up_proj", "experts.down_proj"], "r": 3}, "into experts"),
        ({"target_parameters": "experts.gate_up_proj"}, "a list of parameter names"),
    ],
)
def test_what_the_config_leaves_open_is_refused_by_name(tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    folder = peft_folder(tmp_path / "a", modules={"model.experts.base_layer": (8, 6), "model.experts": (8, 6)})
    settings = json.loads((folder / "adapter_config.json").read_text()) | config
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(Refused, match=reason):
        open_adapter(folder)
