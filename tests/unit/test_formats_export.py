"""Saving: whole or not at all, equal to what was meant, and never over something else."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from studio.core.adapter import Adapter, in_memory_module
from studio.core.errors import LoomError
from studio.core.hub_ids import hub_id_or_none
from studio.formats import open_adapter, save_adapter
from studio.formats import saving as export
from studio.formats.containers.safetensors_file import encode
from tests.fixtures import pair, peft_folder


def _adapter(scale: float = 3.0) -> Adapter:
    (a, b), (c, d) = pair(0, 5, 7, 2), pair(1, 4, 6, 3)
    modules = {"x.q": in_memory_module("x.q", a, b, scale), "x.v": in_memory_module("x.v", c, d, -0.5)}
    return Adapter("made", modules, "memory", base="owner/base")


@pytest.mark.parametrize(
    ("dtype", "code", "tolerance"), [("float32", "F32", 1e-6), ("float16", "F16", 2e-3), ("bfloat16", "BF16", 1e-2)]
)
def test_deltas_survive_in_every_dtype(tmp_path: Path, dtype: str, code: str, tolerance: float) -> None:
    adapter = _adapter()
    again = open_adapter(save_adapter(adapter, tmp_path / "out", dtype=dtype))
    assert {module.dtype for module in again.modules.values()} == {code}
    assert {(module.rank, module.scaling) for module in again.modules.values()} == {(3, 1.0)}
    for name in adapter.modules:
        error = np.linalg.norm(again.delta(name) - adapter.delta(name)) / np.linalg.norm(adapter.delta(name))
        assert error < tolerance


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    save_adapter(_adapter(), tmp_path / "out")
    with safe_open(tmp_path / "out/adapter_model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == {f"base_model.model.x.{m}.lora_{h}.weight" for m in "qv" for h in "AB"}
        assert file.get_tensor("base_model.model.x.q.lora_A.weight").shape == (3, 7)


def test_bfloat16_rounds_to_nearest_even() -> None:
    import torch

    normal = np.random.default_rng(0).standard_normal(4096) * 1e3
    values = np.concatenate([normal, [np.inf, -0.0, 3.4e38, 1e-40]]).astype(np.float32)
    stock = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view("<u2")
    ours = np.frombuffer(encode(values, "bfloat16"), "<u2")
    np.testing.assert_array_equal(ours, stock)
    assert torch.frombuffer(bytearray(encode(np.float32([np.nan]), "bfloat16")), dtype=torch.bfloat16).isnan().all()


def test_zip_holds_the_folder(tmp_path: Path) -> None:
    path = save_adapter(_adapter(), tmp_path / "out.zip", recipe="format: 1\n", card="# Card\n")
    with zipfile.ZipFile(path) as archive:
        names = ["README.md", "adapter_config.json", "adapter_model.safetensors", "recipe.yaml"]
        assert archive.namelist() == names
        assert archive.read("recipe.yaml") == b"format: 1\n"
    assert open_adapter(path).norm() == pytest.approx(_adapter().norm())


def test_an_earlier_export_is_replaced_and_nothing_is_left_beside(tmp_path: Path) -> None:
    save_adapter(_adapter(), tmp_path / "out", recipe="old")
    save_adapter(_adapter(scale=6.0), tmp_path / "out")
    assert open_adapter(tmp_path / "out").norm() == pytest.approx(_adapter(scale=6.0).norm())
    assert sorted(file.name for file in tmp_path.rglob("*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "out",
    ]
    for _ in range(2):
        save_adapter(_adapter(), tmp_path / "out.zip")


@pytest.mark.parametrize("existing", ["notes.txt", "config.json", "checkpoint/x"])
def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path, existing: str) -> None:
    save_adapter(_adapter(), tmp_path / "out")
    (tmp_path / "out" / existing).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / existing).write_text("mine")
    with pytest.raises(LoomError, match="not overwritten"):
        save_adapter(_adapter(), tmp_path / "out")
    assert (tmp_path / "out" / existing).read_text() == "mine"


def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    (tmp_path / "out.zip").write_text("no zip")
    for name in ("out", "out.zip"):
        with pytest.raises(LoomError, match="not overwritten"):
            save_adapter(_adapter(), tmp_path / name)


def test_numbers_beyond_the_dtype_are_refused_and_nothing_appears(tmp_path: Path) -> None:
    with pytest.raises(LoomError, match="Save as float32"):
        save_adapter(_adapter(scale=1e6), tmp_path / "out", dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_writer_leaves_the_earlier_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_adapter(_adapter(), tmp_path / "out")
    monkeypatch.setattr(export, "compare", _fail)
    with pytest.raises(LoomError, match="Disk is full"):
        save_adapter(_adapter(scale=6.0), tmp_path / "out")
    assert open_adapter(tmp_path / "out").norm() == pytest.approx(_adapter().norm())
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def _fail(*_: object) -> None:
    raise OSError(28, "disk is full")


def test_the_comparison_sees_a_wrong_number(tmp_path: Path) -> None:
    adapter, wrong = _adapter(), _adapter(scale=3.00001)
    assert export.relative_error(adapter.modules["x.q"], wrong.modules["x.q"]) == pytest.approx(1e-5 / 3, rel=1e-2)
    with pytest.raises(LoomError, match="does not equal"):
        export.compare(adapter, wrong, 1e-6)
    with pytest.raises(LoomError, match="It differs in"):
        export.compare(adapter, replace(wrong, modules={"x.q": wrong.modules["x.q"]}), 1e-6)


def test_same_adapter_same_bytes(tmp_path: Path) -> None:
    first, second = (save_adapter(_adapter(), tmp_path / name) for name in ("a", "b"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize(
    ("base", "kept"),
    [
        ("gpt2", "gpt2"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("/home/me/gpt2", None),
        ("./gpt2", None),
        ("../x", None),
        ("C:\\models\\gpt2", None),
        ("D:/models/gpt2", None),
        ("~/models", None),
        ("a/b/c", None),
        ("", None),
        (None, None),
    ],
)
def test_only_a_hub_id_is_kept_as_base(base: str | None, kept: str | None) -> None:
    assert hub_id_or_none(base) == kept


def test_config_carries_task_and_orientation(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "in", task_type="CAUSAL_LM", fan_in_fan_out=True, base="gpt2")
    config = json.loads((save_adapter(open_adapter(folder), tmp_path / "out") / "adapter_config.json").read_text())
    assert (config["task_type"], config["fan_in_fan_out"], config["base_model_name_or_path"]) == (
        "CAUSAL_LM",
        True,
        "gpt2",
    )


def test_unknown_format_and_empty_adapter_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoomError, match="no writer"):
        save_adapter(_adapter(), tmp_path / "out", format="tarot")
    with pytest.raises(LoomError, match="adapts no module"):
        save_adapter(replace(_adapter(), modules={}), tmp_path / "out")


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk")
    for _ in range(2):
        assert save_adapter(_adapter(), link) == link
    assert link.is_symlink()
    assert (tmp_path / "disk" / "adapter_config.json").is_file()


def test_a_zip_may_be_spelled_in_capitals(tmp_path: Path) -> None:
    assert zipfile.is_zipfile(save_adapter(_adapter(), tmp_path / "out.ZIP"))
