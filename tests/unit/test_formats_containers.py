"""Adapters inside other things: GGUF files, whole checkpoints, LoRWeB bases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from studio.core.errors import CannotMerge, Refused
from studio.formats import embedded_adapters, inspect, open_adapter
from studio.formats.containers.bundle import split_selection
from studio.recipes.recipe import Source
from studio.recipes.sources import open_source
from tests.fixtures import gguf_file, lorweb_basis, pair, peft_folder, sharded_checkpoint

ATTENTION = "blk.0.attn_q"
NAME = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(("alpha", "scaling"), [(6.0, 3.0), (0.0, 1.0)])
def test_gguf_alpha_zero_means_one(tmp_path: Path, alpha: float, scaling: float) -> None:
    adapter = open_adapter(gguf_file(tmp_path / "x.gguf", {"blk.0.attn_v": pair(0, 8, 16)}, alpha=alpha))
    module = adapter.modules["model.layers.0.self_attn.v_proj"]
    assert (adapter.dialect, module.scaling) == ("gguf", scaling)
    np.testing.assert_allclose(module.delta(), scaling * pair(0, 8, 16)[1] @ pair(0, 8, 16)[0], rtol=1e-5)


def test_gguf_rows_of_q_come_back_in_order_once_the_heads_are_known(tmp_path: Path) -> None:
    down, up = pair(0, 16, 16)
    permuted = up.reshape(4, 2, 2, 2).swapaxes(1, 2).reshape(up.shape)  # LlamaModel.permute, four heads of four
    path = gguf_file(tmp_path / "x.gguf", {ATTENTION: (down, permuted)}, alpha=2)
    with pytest.raises(Refused, match="does not say how large"):
        open_adapter(path)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 16, "num_attention_heads": 4}))
    np.testing.assert_allclose(open_adapter(path).delta(NAME), up @ down, rtol=1e-5)
    (tmp_path / "config.json").write_text(json.dumps({"head_dim": 6}))
    with pytest.raises(Refused, match="has 16 rows"):
        open_adapter(path)


def test_gguf_of_qwen_is_not_permuted(tmp_path: Path) -> None:
    down, up = pair(0, 16, 16)
    adapter = open_adapter(gguf_file(tmp_path / "x.gguf", {ATTENTION: (down, up)}, alpha=2, architecture="qwen2"))
    np.testing.assert_allclose(adapter.delta(NAME), up @ down, rtol=1e-5)


def test_quantised_gguf(tmp_path: Path) -> None:
    down, up = pair(0, 64, 32, 32)
    kind = gguf.GGMLQuantizationType.Q8_0
    path = gguf_file(tmp_path / "x.gguf", {"blk.3.ffn_up": (down, up)}, alpha=32, kind=kind)
    module = open_adapter(path).modules["model.layers.3.mlp.up_proj"]
    a, b = (gguf.quants.dequantize(gguf.quants.quantize(x, kind), kind) for x in (down, up))
    assert module.dtype == "Q8_0"
    np.testing.assert_allclose(module.delta(), b @ a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"architecture": "falcon"}, "of falcon are not known"),
        ({"general_type": "model"}, "a GGUF model, not an adapter"),
        ({"adapter_type": "control"}, "not LoRA"),
        ({"alpha": float("nan")}, "finite number"),
        ({"kind": gguf.GGMLQuantizationType.Q4_0}, "in a way that adapters do not"),
    ],
)
def test_other_gguf_files_are_refused_by_name(tmp_path: Path, about: dict[str, Any], reason: str) -> None:
    path = gguf_file(tmp_path / "x.gguf", {"blk.0.attn_v": pair(0, 32, 32, 32)}, **{"alpha": 1.0, **about})
    assert inspect(path).verdict == "refused"
    with pytest.raises(Refused, match=reason):
        open_adapter(path)


def test_adapters_of_a_sharded_checkpoint_are_opened_by_name(tmp_path: Path) -> None:
    folder = sharded_checkpoint(tmp_path / "phi")
    assert embedded_adapters(folder) == ("speech", "vision")
    with pytest.raises(Refused, match=r"several adapters.*speech, vision.*phi#speech or phi#vision"):
        open_adapter(folder)
    vision = open_adapter(f"{folder}#vision")
    assert (vision.dialect, vision.name, vision.ranks) == ("embedded", "phi-vision", (4,))
    assert {module.scaling for module in vision.modules.values()} == {2.0}
    assert set(vision.modules) == {"model.layers.0.self_attn.qkv_proj", "model.layers.1.self_attn.qkv_proj"}
    found = inspect(f"{folder}#speech")
    assert (found.verdict, found.ranks, found.scaling) == ("warn", (2,), 1.0)
    assert "scaling taken as 1" in found.findings[0].text
    with pytest.raises(Refused, match="is named hearing"):
        open_adapter(f"{folder}#hearing")


def test_only_shards_with_adapters_are_touched(tmp_path: Path) -> None:
    folder = sharded_checkpoint(tmp_path / "phi")
    (folder / "model-00003-of-00003.safetensors").unlink()  # holds base weights alone
    assert len(open_adapter(f"{folder}#vision").modules) == 2
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(Refused, match="not beside it"):
        open_adapter(f"{folder}#vision")


def test_a_path_with_a_hash_of_its_own_is_that_path(tmp_path: Path) -> None:
    folder = sharded_checkpoint(tmp_path / "phi#vision")
    assert split_selection(folder) == (folder, None)
    assert split_selection(f"{folder}#speech") == (folder, "speech")
    assert embedded_adapters(folder) == ("speech", "vision")


def test_a_whole_model_without_adapters_is_refused(tmp_path: Path) -> None:
    folder = sharded_checkpoint(tmp_path / "base", adapters={})
    with pytest.raises(Refused, match="whole model, no adapter"):
        open_adapter(folder)


def test_a_lorweb_basis_is_sent_to_the_analogy_room(tmp_path: Path) -> None:
    found = inspect(lorweb_basis(tmp_path))
    assert (found.verdict, found.dialect) == ("refused", "lorweb")
    assert "to_q.lora_keys" in str(found.evidence)
    assert "analogy room" in found.findings[0].text


def test_one_adapter_of_a_lorweb_basis_is_an_ordinary_lora(tmp_path: Path) -> None:
    path = lorweb_basis(tmp_path)
    found = open_adapter(f"{path}#2")
    assert (found.name, found.dialect, found.rank) == ("basis 2", "lorweb", 2)
    assert (found.delta("transformer.transformer_blocks.0.attn.to_q") == 4).all()
    assert inspect(f"{path}#2").verdict == "ok"
    for wrong in ("0", "4", "two", "-1", "9" * 50):
        with pytest.raises(Refused, match="numbered 1 to 3"):
            open_adapter(f"{path}#{wrong}")


def test_adapters_of_one_file_are_told_apart_by_their_digests(tmp_path: Path) -> None:
    path = lorweb_basis(tmp_path)
    digests = [open_source(Source(path=f"{path}#{k}")).sha256 for k in (1, 2, 2)]
    assert digests[0] != digests[1] == digests[2]
    with pytest.raises(CannotMerge, match="not the file"):
        open_source(Source(path=f"{path}#1", sha256=digests[1]))


def test_a_name_where_adapters_have_none_is_refused(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "a")
    for path in (f"{folder}#vision", f"{folder}/adapter_model.safetensors#1"):
        assert inspect(path).verdict == "refused"
        with pytest.raises(Refused, match="No adapter here is named"):
            open_adapter(path)
