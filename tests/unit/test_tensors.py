"""Reading stored tensors: every number format to float32, lazily, and never more than the file holds."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from studio.core.errors import Refused
from studio.core.tensors import in_memory, open_tensors

VALUES = torch.tensor([[0.5, -1.25, 3.0], [1e-3, 7.0, -0.0]])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (torch.float64, "F64"),
        (torch.float32, "F32"),
        (torch.float16, "F16"),
        (torch.bfloat16, "BF16"),
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.float8_e5m2, "F8_E5M2"),
        (torch.int32, "I32"),
    ],
)
def test_safetensors_number_formats(tmp_path: Path, kind: torch.dtype, name: str) -> None:
    save_file({"pad": torch.zeros(3, dtype=torch.uint8), "x": VALUES.to(kind)}, tmp_path / "x.safetensors", {"a": "b"})
    file = open_tensors(tmp_path / "x.safetensors")
    assert file.metadata == {"a": "b"}
    assert (file.tensors["x"].shape, file.tensors["x"].dtype, file.tensors["x"].size) == ((2, 3), name, 6)
    read = file.tensors["x"].read()
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, VALUES.to(kind).float().numpy())


def test_writing_to_what_was_read_leaves_the_file(tmp_path: Path) -> None:
    save_file({"x": VALUES}, tmp_path / "x.safetensors")
    before = (tmp_path / "x.safetensors").read_bytes()
    open_tensors(tmp_path / "x.safetensors").tensors["x"].read()[:] = 9
    assert (tmp_path / "x.safetensors").read_bytes() == before


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".safetensors"])
def test_torch_files_by_content(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    torch.save({"x": VALUES.bfloat16(), "step": 3}, path)
    file = open_tensors(path)
    assert list(file.tensors) == ["x"]
    assert file.tensors["x"].dtype == "BF16"
    np.testing.assert_array_equal(file.tensors["x"].read(), VALUES.bfloat16().float().numpy())


def test_torch_list_gets_positions(tmp_path: Path) -> None:
    torch.save([VALUES, VALUES + 1], tmp_path / "x.pt")
    assert list(open_tensors(tmp_path / "x.pt").tensors) == ["0", "1"]


def test_npz_is_read_member_by_member(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{"a.lora_a": VALUES.numpy(), "h": VALUES.half().numpy()})
    file = open_tensors(tmp_path / "x.npz")
    assert file.tensors["h"].dtype == "F16"
    np.testing.assert_array_equal(file.tensors["a.lora_a"].read(), VALUES.numpy())


def test_in_memory() -> None:
    np.testing.assert_array_equal(in_memory(VALUES.numpy()).read(), VALUES.numpy())


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return __import__("os").system, ("touch pwned",)


def test_code_in_a_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"x": _Evil()}, tmp_path / "x.bin")
    with pytest.raises(Refused, match="plain tensors") as told:
        open_tensors(tmp_path / "x.bin")
    assert not (tmp_path / "pwned").exists()
    assert "weights_only" not in str(told.value)  # torch's own text says how to let it run


def test_a_small_storage_seen_as_a_huge_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "x.bin")
    with pytest.raises(Refused, match="larger than its stored values"):
        open_tensors(tmp_path / "x.bin")


def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.eye(3).to_sparse()}, tmp_path / "x.bin")
    with pytest.raises(Refused):
        open_tensors(tmp_path / "x.bin")


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([_Evil()], dtype=object))
    with pytest.raises(Refused):
        open_tensors(tmp_path / "x.npz")


def test_npz_whose_header_promises_more_than_it_holds(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(4, np.float32))
    content = (tmp_path / "x.npy").read_bytes().replace(b"(4,)", b"(9,)")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(Refused, match="shorter than its shape"):
        open_tensors(tmp_path / "x.npz")


def test_npz_bomb(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\0" * (64 << 20))
    with pytest.raises(Refused, match="times its size"):
        open_tensors(tmp_path / "x.npz")


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    entry = json.dumps({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
    header = f'{{"x": {entry}, "x": {entry}}}'.encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(Refused):
        open_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git-LFS pointer"),
        (b"", "0 bytes"),
        (b"ab", "2 bytes"),
        (b"GGUF" + b"\0" * 60, "GGUF"),
        (b"\xff" * 100, "not a whole safetensors"),
        (b"<html>not found</html>", "not a whole safetensors"),
    ],
)
def test_what_is_no_weights_file_is_refused_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(Refused, match=reason):
        open_tensors(tmp_path / "adapter_model.safetensors")


@pytest.mark.parametrize("length", [128, 0x280, 0x4B50, 0x00800280])
def test_a_header_length_may_look_like_another_magic(tmp_path: Path, length: int) -> None:
    entry = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    content = length.to_bytes(8, "little") + entry.ljust(length) + np.float32(2).tobytes()
    (tmp_path / "x.safetensors").write_bytes(content)
    assert open_tensors(tmp_path / "x.safetensors").tensors["x"].read() == [2]


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    save_file({"x": VALUES}, tmp_path / "x.safetensors")
    whole = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(whole[:-1])
    with pytest.raises(Refused):
        open_tensors(tmp_path / "x.safetensors")
