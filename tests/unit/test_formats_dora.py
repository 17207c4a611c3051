"""DoRA with its base: the update that stock PEFT's own layers make; refused without the base and where unclear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from studio import merge
from studio.core.errors import LoomError, MissingFile, Refused
from studio.formats import open_adapter
from studio.formats.dora import open_dora
from tests.fixtures import peft_folder


class Model(nn.Module):
    """A wide, a tall and one of GPT-2's layers, whose weight is stored (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.h = nn.ModuleDict({"wide": nn.Linear(9, 5), "tall": nn.Linear(4, 7), "conv1d": Conv1D(6, 8)})


@pytest.fixture
def trained(tmp_path: Path) -> tuple[PeftModel, Path, Path]:
    """A model with trained-looking DoRA, its adapter's folder, and the weights of its base."""
    torch.manual_seed(0)
    base = Model()
    save_file(base.state_dict(), tmp_path / "model.safetensors")
    targets = ["wide", "tall", "conv1d"]
    model = get_peft_model(base, LoraConfig(r=2, lora_alpha=6, use_dora=True, target_modules=targets))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "dora")
    return model, tmp_path / "dora", tmp_path / "model.safetensors"


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_the_update_is_the_one_that_peft_merges(trained: tuple[PeftModel, Path, Path]) -> None:
    model, folder, base = trained
    before = load_file(base)
    adapter = open_dora(folder, base)
    after = model.merge_and_unload().state_dict()
    assert set(adapter.modules) == {"h.wide", "h.tall", "h.conv1d"}
    for name in adapter.modules:
        update = (after[f"{name}.weight"] - before[f"{name}.weight"]).numpy()
        wanted = update.T if name == "h.conv1d" else update
        assert np.linalg.norm(adapter.delta(name) - wanted) <= 1e-5 * np.linalg.norm(wanted), name


def test_it_merges_and_is_cut_like_any_other(trained: tuple[PeftModel, Path, Path]) -> None:
    _, folder, base = trained
    adapter = open_dora(folder.parent / "dora", base.parent)
    cut = merge([adapter], "svd", [1.0], rank=2)
    for name, module in adapter.modules.items():
        u, s, vh = np.linalg.svd(module.delta())
        np.testing.assert_allclose(cut.delta(name), (u[:, :2] * s[:2]) @ vh[:2], rtol=1e-3, atol=1e-4)


def test_without_the_base_it_is_refused_by_name(trained: tuple[PeftModel, Path, Path]) -> None:
    with pytest.raises(Refused, match="DoRA"):
        open_adapter(trained[1])


def test_what_is_unclear_is_refused(trained: tuple[PeftModel, Path, Path], tmp_path: Path) -> None:
    _, folder, base = trained
    with pytest.raises(Refused, match="is not a DoRA"):
        open_dora(peft_folder(tmp_path / "plain"), base)
    with pytest.raises(MissingFile):
        open_dora(folder, tmp_path / "nowhere")
    save_file({"h.wide.weight": torch.zeros(5, 9)}, tmp_path / "half.safetensors")
    with pytest.raises(LoomError, match="has no layer"):
        open_dora(folder, tmp_path / "half.safetensors")
    square = {f"h.{name}.weight": torch.zeros(3, 3) for name in ("wide", "tall", "conv1d")}
    save_file(square, tmp_path / "odd.safetensors")
    with pytest.raises(LoomError, match="does not fit the base"):
        open_dora(folder, tmp_path / "odd.safetensors")
