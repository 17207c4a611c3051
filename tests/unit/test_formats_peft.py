"""PEFT files: read as PEFT itself reads them, written so that stock PEFT loads them with equal deltas."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from studio.core.adapter import Adapter
from studio.core.errors import LoomError, Refused
from studio.formats import inspect, open_adapter, save_adapter
from tests.fixtures import TINY, peft_folder, weights_file


class Block(nn.Module):
    """One layer of each kind that PEFT adapts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)
        self.conv1d = Conv1D(7, 6)  # GPT-2's: 6 in, 7 out, weight stored (in, out)
        self.conv = nn.Conv2d(3, 4, (3, 2))


class Model(nn.Module):
    """Two blocks, an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(11, 6)
        self.h = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(5, 2)


TARGETS = ["linear", "conv1d", "conv", "wte"]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "alpha": {"lora_alpha": 12},
    "rslora": {"use_rslora": True, "lora_alpha": 6},
    "rank_pattern": {"rank_pattern": {"linear": 2, r"h\.1\.conv": 1}},
    "alpha_pattern": {"alpha_pattern": {"h.0.conv1d": 3, "^wte": 8}, "lora_alpha": 2},
    "patterns_and_rslora": {"use_rslora": True, "rank_pattern": {"conv.*": 2}, "alpha_pattern": {"conv": 5}},
}


def wrapped(base: nn.Module, **config: Any) -> PeftModel:
    """A PEFT model with random, trained-looking factors."""
    torch.manual_seed(1)
    model = get_peft_model(base, LoraConfig(**{"r": 4, "lora_alpha": 4, "target_modules": TARGETS, **config}))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    return model


def stock_deltas(model: PeftModel) -> dict[str, np.ndarray[Any, Any]]:
    """Every update as PEFT computes it, turned to the (d_out, d_in) of the layer's function."""
    found = {}
    for name, layer in model.base_model.model.named_modules():
        if isinstance(layer, LoraLayer):
            delta = layer.get_delta_weight("default").detach()
            transposed = isinstance(layer.get_base_layer(), (Conv1D, nn.Embedding))
            found[name] = (delta.T if transposed else delta.flatten(1)).numpy()
    return found


def assert_equal_deltas(adapter: Adapter, expected: dict[str, np.ndarray[Any, Any]], tolerance: float = 1e-5) -> None:
    assert adapter.modules.keys() == expected.keys()
    for name, delta in expected.items():
        assert adapter.modules[name].shape == delta.shape
        assert np.linalg.norm(adapter.delta(name) - delta) <= tolerance * np.linalg.norm(delta), name


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT remarks on Conv1D and on targeted embeddings
        yield


@pytest.mark.parametrize("variant", VARIANTS)
def test_reads_what_peft_wrote(tmp_path: Path, variant: str) -> None:
    model = wrapped(Model(), **VARIANTS[variant])
    model.save_pretrained(tmp_path)
    adapter = open_adapter(tmp_path)
    assert (adapter.dialect, adapter.findings[0].level if adapter.findings else "") == ("peft", "note")
    assert_equal_deltas(adapter, stock_deltas(model))
    kinds = {name: module.kind for name, module in adapter.modules.items()}
    assert (kinds["wte"], kinds["h.0.conv"], kinds["h.0.conv1d"]) == ("embedding", "conv", "linear")
    assert adapter.modules["h.1.conv"].kernel == (3, 2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_stock_peft_loads_the_export_with_equal_deltas(tmp_path: Path, variant: str) -> None:
    base = Model()
    model = wrapped(copy.deepcopy(base), **VARIANTS[variant])
    model.save_pretrained(tmp_path / "in")
    save_adapter(open_adapter(tmp_path / "in"), tmp_path / "out")
    again = PeftModel.from_pretrained(base, tmp_path / "out")
    ours, stock = stock_deltas(again), stock_deltas(model)
    assert ours.keys() == stock.keys()
    for name in stock:
        np.testing.assert_allclose(ours[name], stock[name], rtol=1e-4, atol=1e-5, err_msg=name)


class Convolutions(nn.Module):
    """Of one and of three dimensions, and one in groups."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.line = nn.Conv1d(4, 6, 5)
        self.space = nn.Conv3d(2, 3, (1, 2, 2))
        self.point = nn.Conv2d(4, 6, 1, groups=groups)


def test_convolutions_of_any_dimension_go_to_stock_peft_and_back(tmp_path: Path) -> None:
    targets = ["line", "space", "point"]
    base = Convolutions()
    model = wrapped(copy.deepcopy(base), target_modules=targets, lora_alpha=6)
    model.save_pretrained(tmp_path / "in")
    adapter = open_adapter(tmp_path / "in")
    assert_equal_deltas(adapter, stock_deltas(model))
    assert {name: adapter.modules[name].kernel for name in targets} == {
        "line": (5,),
        "space": (1, 2, 2),
        "point": (1, 1),
    }
    again = PeftModel.from_pretrained(base, save_adapter(adapter, tmp_path / "out"))
    assert_equal_deltas(adapter, stock_deltas(again))


def test_a_convolution_in_groups_is_refused_by_name(tmp_path: Path) -> None:
    wrapped(Convolutions(groups=2), target_modules=["point"]).save_pretrained(tmp_path)
    with pytest.raises(Refused, match="convolution of 2 groups"):
        open_adapter(tmp_path)


def test_export_config_needs_no_patterns(tmp_path: Path) -> None:
    wrapped(Model(), **VARIANTS["patterns_and_rslora"]).save_pretrained(tmp_path / "in")
    save_adapter(open_adapter(tmp_path / "in"), tmp_path / "out")
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 4
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert config["use_rslora"] is False
    assert config["target_modules"] == sorted(stock_deltas(wrapped(Model())))


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_saved_head_and_biases_are_carried_into_stock_peft(tmp_path: Path, bias: str) -> None:
    base = Model()
    model = wrapped(copy.deepcopy(base), modules_to_save=["head"], bias=bias)
    with torch.no_grad():
        model.base_model.model.head.modules_to_save["default"].weight.fill_(3.0)
        model.base_model.model.h[0].linear.base_layer.bias.fill_(2.0)
    model.save_pretrained(tmp_path / "in")
    adapter = open_adapter(tmp_path / "in")
    assert {"head.weight", "head.bias", "h.0.linear.bias"} <= adapter.extras.keys()
    assert any(finding.level == "warn" and "are stored with the LoRA" in finding.text for finding in adapter.findings)
    again = PeftModel.from_pretrained(base, save_adapter(adapter, tmp_path / "out")).base_model.model
    assert (again.head.modules_to_save["default"].weight == 3).all()
    assert (again.h[0].linear.base_layer.bias == 2).all()


def test_a_classifier_without_its_head_still_loads(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "in", modules={"h.0.linear": (5, 6)}, task_type="SEQ_CLS")
    save_adapter(open_adapter(folder), tmp_path / "out")
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["task_type"] is None
    PeftModel.from_pretrained(Model(), tmp_path / "out")


@pytest.mark.parametrize(
    "prefix", ["base_model.model.", "base_model.model.base_model.model.", "", "base_model.model._orig_mod."]
)
def test_wrappers_are_removed_from_names(tmp_path: Path, prefix: str) -> None:
    assert set(open_adapter(peft_folder(tmp_path / "a", prefix=prefix)).modules) == set(TINY)


def test_a_denoiser_gets_its_component_and_loses_it_again(tmp_path: Path) -> None:
    inner = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    adapter = open_adapter(peft_folder(tmp_path / "in", modules={inner: (4, 6)}))
    assert list(adapter.modules) == [f"unet.{inner}"]
    config = json.loads((save_adapter(adapter, tmp_path / "out") / "adapter_config.json").read_text())
    assert config["target_modules"] == [inner]


def test_rank_comes_from_the_tensors(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "a", rank=4, alpha=8)
    config = json.loads((folder / "adapter_config.json").read_text()) | {"r": 16}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    found = inspect(folder)
    assert (found.verdict, found.ranks, found.scaling) == ("warn", (4,), 2.0)
    assert "promises rank 16, the tensors have rank 4 (4 modules)" in found.findings[0].text


def test_without_config_the_scaling_is_one_and_said_so(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "a")
    (folder / "adapter_config.json").unlink()
    found = inspect(folder)
    assert (found.verdict, found.scaling) == ("warn", 1.0)
    assert "no adapter_config.json" in found.findings[0].text


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"peft_type": "ADALORA"}, "AdaLoRA"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"peft_type": "VERA"}, "VeRA"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"kasa_config": {"x": 1}}, "KaSA"),
        ({"use_qalora": True}, "QALoRA"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path: Path, config: dict[str, Any], named: str) -> None:
    folder = peft_folder(tmp_path / "a", **config)
    with pytest.raises(Refused, match=named):
        open_adapter(folder)
    assert inspect(folder).verdict == "refused"


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector", "DoRA"),
        ("model.layers.0.self_attn.q_proj.lora_B.bias", "lora_bias"),
        ("model.layers.0.self_attn.q_proj.lora_E", "AdaLoRA"),
        ("model.layers.0.self_attn.q_proj.lora_diag", "KaSA"),
        ("model.layers.0.self_attn.q_proj.lora_something_new", "not plain LoRA"),
    ],
)
def test_other_kinds_are_known_by_their_tensors(tmp_path: Path, key: str, named: str) -> None:
    folder = peft_folder(tmp_path / "a", extras={key: np.ones(4, np.float32)})
    with pytest.raises(Refused, match=named):
        open_adapter(folder)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_16", "olora", "corda", "lora_ga"])
def test_an_altered_base_is_warned_of(tmp_path: Path, init: str) -> None:
    found = inspect(peft_folder(tmp_path / "a", init_lora_weights=init))
    assert found.verdict == "warn"
    assert "alters the base" in found.findings[0].text


def test_layer_replication_is_warned_of(tmp_path: Path) -> None:
    assert inspect(peft_folder(tmp_path / "a", layer_replication=[[0, 1], [0, 1]])).verdict == "warn"


def test_half_a_module_is_refused(tmp_path: Path) -> None:
    extra = {"model.layers.5.self_attn.q_proj.lora_A.weight": np.ones((4, 16), np.float32)}
    with pytest.raises(Refused, match="is missing for 1 of 5 modules"):
        open_adapter(peft_folder(tmp_path / "a", extras=extra))


def test_a_module_given_twice_is_refused(tmp_path: Path) -> None:
    twice = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    with pytest.raises(Refused, match="appears twice"):
        open_adapter(peft_folder(tmp_path / "a", extras={twice: np.ones((4, 16), np.float32)}))


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (("h.0.attn.c_attn.lora_A", "h.0.attn.c_attn.lora_B"), "loralib"),
        (("layers.0.attn.q_proj.lora_a.weight", "layers.0.attn.q_proj.lora_b.weight"), "torchtune"),
        (("layer.0.query.loras.mine.lora_A", "layer.0.query.loras.mine.lora_B"), "AdapterHub"),
    ],
)
def test_other_libraries_adapters_are_refused_by_name(tmp_path: Path, keys: tuple[str, str], named: str) -> None:
    tensors = dict(zip(keys, (np.ones((4, 6), np.float32), np.ones((12, 2), np.float32)), strict=True))
    with pytest.raises(Refused, match=named):
        open_adapter(weights_file(tmp_path / "x.safetensors", tensors))


def test_wrapped_for_several_processes(tmp_path: Path) -> None:
    assert set(open_adapter(peft_folder(tmp_path / "a", prefix="module.base_model.model.")).modules) == set(TINY)


def test_several_adapters_in_one_file_are_refused(tmp_path: Path) -> None:
    names = [f"model.q.lora_{half}.other.weight" for half in "AB"]
    with pytest.raises(Refused, match="several adapters"):
        open_adapter(peft_folder(tmp_path / "a", extras=dict.fromkeys(names, np.ones((4, 4), np.float32))))


def test_nan_is_a_stop(tmp_path: Path) -> None:
    bad = {f"model.q.lora_{half}.weight": np.full((4, 4), np.nan, np.float32) for half in "AB"}
    found = inspect(peft_folder(tmp_path / "a", extras=bad))
    assert found.verdict == "refused"
    assert [(f.level, f.module) for f in found.findings if f.level == "stop"] == [("stop", "model.q")]
    json.dumps(found.to_json(), allow_nan=False)


def test_untrained_is_warned_of(tmp_path: Path) -> None:
    zero = {f"m.{i}.lora_B.weight": np.zeros((4, 2), np.float32) for i in range(2)}
    zero |= {f"m.{i}.lora_A.weight": np.ones((2, 4), np.float32) for i in range(2)}
    found = inspect(peft_folder(tmp_path / "a", modules={}, extras=zero, rank=2))
    assert (found.verdict, found.untrained, found.norm) == ("warn", True, 0.0)


def test_json_of_an_inspection(tmp_path: Path) -> None:
    found = inspect(peft_folder(tmp_path / "a", rank_pattern={"q_proj": 2})).to_json()
    fields = "path verdict dialect evidence base ranks alpha scaling modules dtype bytes findings account"
    assert list(found) == fields.split()
    assert (found["ranks"], found["alpha"], found["scaling"], found["dtype"]) == ([2, 4], 8.0, [2.0, 4.0], "F32")
    json.dumps(found, allow_nan=False)


def test_a_missing_path_is_a_verdict_and_an_error(tmp_path: Path) -> None:
    assert inspect(tmp_path / "nothing").verdict == "refused"
    with pytest.raises(LoomError, match="is not there"):
        open_adapter(tmp_path / "nothing")


def test_a_trainers_leftovers_are_no_weights(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model (1).safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"x")
    assert len(open_adapter(folder).modules) == len(TINY)
    (folder / "other.safetensors").write_bytes(b"x")
    with pytest.raises(Refused, match="not clear which one is meant"):
        open_adapter(folder)


def test_header_only_and_without_torch(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "a")
    code = (
        "import sys; from studio.formats import inspect, open_adapter; "
        f"i = inspect({str(folder)!r}); open_adapter({str(folder)!r}).delta(i.modules[0]); "
        "assert i.verdict == 'ok'; assert not {'torch', 'transformers', 'peft', 'scipy', 'gradio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_alpha_zero_is_told_from_untrained(tmp_path: Path) -> None:
    found = inspect(peft_folder(tmp_path / "a", alpha=0))
    assert (found.verdict, found.scaling) == ("warn", 0.0)
    assert found.findings[0].text == "its scaling is zero, so the adapter changes nothing"
