"""Trained weights on disk: float16, in shards that stock loaders find by their index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from training import weights
from training.weights import read_weights, write_weights


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Three tensors of 200 bytes in float16, of which a shard holds two."""
    monkeypatch.setattr(weights, "SHARD_BYTES", 400)
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(10, 10, generator=draw).half().float() for name in "abc"}


def test_what_is_larger_than_a_shard_is_cut_and_reads_back_equal(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    write_weights(tmp_path / "model.safetensors", state)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert index["weight_map"] == {"a": first, "b": first, "c": second}
    assert index["metadata"]["total_size"] == 600
    again = read_weights(tmp_path, "cpu")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_what_fits_is_one_file_and_replaces_the_shards_of_an_earlier_run(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    write_weights(tmp_path / "model.safetensors", state)
    write_weights(tmp_path / "model.safetensors", {"a": state["a"]})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert torch.equal(read_weights(tmp_path, "cpu")["a"], state["a"])


def test_an_empty_folder_says_to_train_first(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train that stage first"):
        read_weights(tmp_path, "cpu")
