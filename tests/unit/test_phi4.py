"""Phi-4-multimodal's adapters: both storages at a small size, the fused split, the views by modality."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.phi4 import Phi4, write_checkpoint
from studio.core.adapter import Adapter, in_memory_module
from studio.core.errors import LoomError, Refused
from studio.core.source_file import Bytes, SourceFile
from studio.formats import embedded_adapters, inspect, open_adapter, save_adapter
from studio.formats.containers.bundle import read_config
from studio.formats.projections import split_projections
from studio.routing.modality_views import modality_views

SMALL = Phi4(layers=3, width=48, hidden=40, heads=6, key_heads=2, vision=4, speech=6)
QKV = "model.layers.1.self_attn.qkv_proj"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phi4") / "phi"
    write_checkpoint(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def folders(checkpoint: Path) -> Path:
    """The same adapters as `vision-lora` and `speech-lora` beside a checkpoint that is broken."""
    whole = checkpoint.parent / "whole"
    for name in ("vision", "speech"):
        save_adapter(open_adapter(f"{checkpoint}#{name}"), whole / f"{name}-lora", dtype="bfloat16")
    (whole / "model.safetensors.index.json").write_text("{}")
    return whole


def test_both_adapters_have_the_config_scale_and_the_ranks_of_their_tensors(checkpoint: Path) -> None:
    assert embedded_adapters(checkpoint) == ("speech", "vision")
    for name, rank in (("vision", 4), ("speech", 6)):
        adapter = open_adapter(f"{checkpoint}#{name}")
        assert len(adapter.modules) == 4 * SMALL.layers
        assert adapter.ranks == (rank,)
        assert {module.scaling for module in adapter.modules.values()} == {2.0}
        assert not [finding for finding in adapter.findings if finding.level != "note"]


def test_a_config_that_disagrees_is_warned_about_and_the_tensors_are_believed(checkpoint: Path, tmp_path: Path) -> None:
    config = SMALL.config() | {"vision_lora": {"r": 8, "lora_alpha": 8}, "speech_lora": {"r": 6, "lora_alpha": "many"}}
    for file in checkpoint.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = inspect(f"{tmp_path}#vision")
    assert (found.verdict, found.ranks, found.scaling) == ("warn", (4,), 2.0)
    assert "promises rank 8, the tensors have rank 4" in found.findings[0].text
    with pytest.raises(Refused, match="lora_alpha"):
        open_adapter(f"{tmp_path}#speech")


def test_base_weights_are_never_read(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_adapter(f"{checkpoint}#vision")
    taken, read = [], SourceFile.read

    def recorded(source: SourceFile, offset: int, size: int) -> Bytes:
        taken.append(size)
        return read(source, offset, size)

    monkeypatch.setattr(SourceFile, "read", recorded)
    for module in opened.modules.values():
        module.load()
    assert len(taken) == 2 * len(opened.modules)
    rank, bytes_each = 4, {"BF16": 2, "F32": 4}[next(iter(opened.modules.values())).dtype]
    sizes = {side * rank * bytes_each for module in opened.modules.values() for side in (module.d_in, module.d_out)}
    assert set(taken) == sizes


def test_folders_win_over_the_checkpoint_and_hold_the_same(checkpoint: Path, folders: Path) -> None:
    assert embedded_adapters(folders) == ("speech", "vision")
    with pytest.raises(Refused, match=r"several adapters.*whole#speech or whole#vision"):
        open_adapter(folders)
    with pytest.raises(Refused, match="is named hearing"):
        open_adapter(f"{folders}#hearing")
    for name in ("vision", "speech"):
        adapter, before = open_adapter(f"{folders}#{name}"), open_adapter(f"{checkpoint}#{name}")
        assert adapter.dialect == "peft"
        assert list(adapter.modules) == list(before.modules)
        np.testing.assert_array_equal(adapter.delta(QKV), before.delta(QKV))


def test_an_adapter_saved_into_the_models_folder_hides_no_other(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.iterdir():
        (tmp_path / file.name).symlink_to(file)
    save_adapter(open_adapter(f"{checkpoint}#vision"), tmp_path / "vision-lora")
    assert embedded_adapters(tmp_path) == ("speech", "vision")
    assert open_adapter(f"{tmp_path}#vision").dialect == "peft"
    assert open_adapter(f"{tmp_path}#speech").dialect == "embedded"
    with pytest.raises(Refused, match=r"several adapters.*speech, vision"):
        open_adapter(tmp_path)


def test_the_extracted_folder_opens_in_stock_peft(folders: Path) -> None:
    from peft import PeftConfig
    from peft.utils import load_peft_weights

    config = PeftConfig.from_pretrained(str(folders / "speech-lora"))
    weights = load_peft_weights(str(folders / "speech-lora"), device="cpu")
    stem = f"base_model.model.{QKV}"
    scale = config.lora_alpha / config.r
    delta = scale * weights[f"{stem}.lora_B.weight"].float() @ weights[f"{stem}.lora_A.weight"].float()
    np.testing.assert_allclose(delta.numpy(), open_adapter(f"{folders}#speech").delta(QKV), rtol=1e-6, atol=1e-7)


def test_an_adapter_of_its_own_is_not_asked_for_nested_ones(folders: Path, tmp_path: Path) -> None:
    for file in (folders / "vision-lora").iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "other-lora").symlink_to(folders / "speech-lora")
    assert open_adapter(tmp_path).ranks == (4,)


def test_fused_projections_split_exactly(checkpoint: Path) -> None:
    vision = open_adapter(f"{checkpoint}#vision")
    parts = split_projections(vision, read_config(checkpoint / "config.json"))
    assert len(parts.modules) == SMALL.layers * (3 + 1 + 2 + 1)
    stem = "model.layers.2"
    for whole, names in (("self_attn.qkv_proj", "qkv"), ("mlp.gate_up_proj", ("gate", "up"))):
        inside = whole.partition(".")[0]
        deltas = [parts.delta(f"{stem}.{inside}.{name}_proj") for name in names]
        np.testing.assert_array_equal(np.concatenate(deltas), vision.delta(f"{stem}.{whole}"))
    assert parts.modules[f"{stem}.self_attn.k_proj"].shape == (2 * SMALL.head, SMALL.width)


@pytest.mark.parametrize("config", [{}, {"num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": 48}])
def test_a_split_without_the_right_heads_is_refused(checkpoint: Path, config: dict[str, int]) -> None:
    with pytest.raises(LoomError, match="qkv_proj cannot be split"):
        split_projections(open_adapter(f"{checkpoint}#vision"), config)


def test_views_agree_with_dense_algebra(checkpoint: Path) -> None:
    vision, speech = (open_adapter(f"{checkpoint}#{name}") for name in ("vision", "speech"))
    views = modality_views([vision, speech])
    view = next(view for view in views.modules if view.name == QKV)
    first, second = (torch.from_numpy(adapter.delta(QKV)).double() for adapter in (vision, speech))
    u1, s1, v1 = torch.linalg.svd(first, full_matrices=False)
    u2, _, v2 = torch.linalg.svd(second, full_matrices=False)
    strength, shared = view.strengths[0], view.shared[0]
    assert strength is not None
    assert shared is not None
    share = s1[:4] / s1[:4].sum()
    assert strength.norm == pytest.approx(float(first.norm()), rel=1e-5)
    assert strength.effective_rank == pytest.approx(float((-(share * share.log()).sum()).exp()), rel=1e-4)
    held = s1.square().cumsum(0) / s1.square().sum()
    assert strength.energy_rank == int((held < 0.9).sum()) + 1
    a, b = vision.modules[QKV]
    assert strength.unit == pytest.approx(2.0 * (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=0)).max(), rel=1e-5)
    assert shared.cosine == pytest.approx(float((first * second).sum() / first.norm() / second.norm()), abs=1e-6)
    assert shared.outputs == pytest.approx(float((u1[:, :4].T @ u2[:, :6]).square().sum() / 4), rel=1e-4)
    assert shared.inputs == pytest.approx(float((v1[:4] @ v2[:6].T).square().sum() / 4), rel=1e-4)
    assert shared.chance == (6 / 80, 6 / 48)


def test_views_over_all_modules(checkpoint: Path) -> None:
    vision, speech = (open_adapter(f"{checkpoint}#{name}") for name in ("vision", "speech"))
    steps: list[tuple[int, int]] = []
    views = modality_views([vision, speech, vision], lambda done, total: steps.append((done, total)))
    assert steps[-1] == (12, 12)
    assert views.norm(1) == pytest.approx(speech.norm(), rel=1e-5)
    assert views.pairs == ((0, 1), (0, 2), (1, 2))
    assert (views.rank(0), views.rank(1)) == (4, 6)
    assert views.cosine(1) == pytest.approx(1.0)
    layers, kinds, norms = views.heat(0)
    assert layers == ("layers.0", "layers.1", "layers.2")
    assert set(kinds) == {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"}
    assert np.sqrt((norms**2).sum()) == pytest.approx(views.norm(0))


def test_views_of_adapters_that_differ(checkpoint: Path) -> None:
    rng = np.random.default_rng(0)
    low = rng.standard_normal((2, 5)).astype(np.float32)
    pairs = {
        "a": in_memory_module("a", low, np.zeros((3, 2), np.float32)),
        "b": in_memory_module("b", low, rng.standard_normal((4, 2)).astype(np.float32), 0.5),
    }
    small = Adapter("small", pairs, "peft")
    views = modality_views([small, Adapter("other", {"b": pairs["b"]}, "peft")])
    assert views.modules[0].shared == (None,)
    assert views.modules[0].strengths[0] is not None
    assert views.modules[0].strengths[0].norm == 0.0
    assert np.isnan(views.heat(1)[2]).sum() == 3
    with pytest.raises(LoomError, match="different shapes"):
        modality_views([small, Adapter("wrong", {"a": pairs["b"]}, "peft")])
    broken = in_memory_module("a", np.full((2, 5), np.nan, np.float32), np.zeros((3, 2), np.float32))
    with pytest.raises(LoomError, match="not finite"):
        modality_views([Adapter("broken", {"a": broken}, "peft")])
