"""What was opened is what is read, merged and written; a file that changed since is refused in one typed error."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from studio import open_adapter
from studio.composing.compose import compose
from studio.composing.export import export
from studio.core.errors import Changed, LoomError
from studio.core.source_file import SourceFile
from studio.core.tensors import open_tensors
from studio.formats import open_dora
from studio.recipes.recipe import Source, load, parse
from studio.recipes.sources import open_source, open_sources
from studio.session.workspace import Workspace
from tests.fixtures import gguf_file, pair, peft_folder, sharded_checkpoint

WEIGHTS = "adapter_model.safetensors"


def replaced(path: Path) -> None:
    """Another file of the same length takes its place, as a trainer saves."""
    coming = path.with_suffix(".tmp")
    coming.write_bytes(path.read_bytes()[:-8] + b"\0\0\0\0\0\0\0\0")
    os.replace(coming, path)


def rewritten(path: Path) -> None:
    """As many other bytes are written into the same file, and its time is put back."""
    before = path.stat()
    with path.open("rb+") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\0\0\0\0\0\0\0\0")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def lengthened(path: Path) -> None:
    """The same tensors behind a longer header; of other files than safetensors, more bytes in front."""
    if path.suffix == ".safetensors":
        save_file(load_file(path), path, {"note": "x" * 999})
    else:
        path.write_bytes(b"x" * 999 + path.read_bytes())


def halved(path: Path) -> None:
    """Half of it is gone."""
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    """All of it is gone, the file is there."""
    os.truncate(path, 0)


def removed(path: Path) -> None:
    """The file is gone."""
    path.unlink()


def folder_removed(path: Path) -> None:
    """The folder is gone."""
    shutil.rmtree(path.parent)


CHANGES = [replaced, rewritten, lengthened, halved, emptied, removed, folder_removed]
Change = Callable[[Path], None]


def _folder(place: Path) -> tuple[str, Path]:
    return str(peft_folder(place, base="b/b")), place / WEIGHTS


def _zip(place: Path) -> tuple[str, Path]:
    folder = peft_folder(place / "inner", base="b/b")
    with zipfile.ZipFile(place / "a.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    return str(place / "a.zip"), place / "a.zip"


def _shards(place: Path) -> tuple[str, Path]:
    return f"{sharded_checkpoint(place)}#vision", place / "model-00002-of-00003.safetensors"


def _gguf(place: Path) -> tuple[str, Path]:
    place.mkdir()
    path = gguf_file(place / "a.gguf", {"blk.0.attn_v": pair(0, 8, 8)}, alpha=4)
    return str(path), path


def _bin(place: Path) -> tuple[str, Path]:
    folder = peft_folder(place)
    tensors = {key: torch.from_numpy(value) for key, value in load_file(folder / WEIGHTS).items()}
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / "adapter_model.bin")
    return str(folder), folder / "adapter_model.bin"


def _npz(place: Path) -> tuple[str, Path]:
    folder = peft_folder(place)
    np.savez(folder / "adapters.npz", **load_file(folder / WEIGHTS))
    (folder / WEIGHTS).unlink()
    return str(folder), folder / "adapters.npz"


CONTAINERS = {"folder": _folder, "zip": _zip, "shards": _shards, "gguf": _gguf, "bin": _bin, "npz": _npz}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_source_that_changed_after_opening_is_never_merged(tmp_path: Path, container: str, change: Change) -> None:
    where, file = CONTAINERS[container](tmp_path / "a")
    recipe = parse({"sources": [{"path": where}]})
    sources = open_sources(recipe)
    change(file)
    with pytest.raises(Changed, match="in a has changed since it was opened"):
        compose(recipe, sources)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("container", ["folder", "shards", "gguf", "bin", "npz"])
def test_no_tensor_of_it_is_read(tmp_path: Path, container: str, change: Change) -> None:
    where, file = CONTAINERS[container](tmp_path / "a")
    modules = list(open_adapter(where).modules.values())
    change(file)
    with pytest.raises(Changed):
        [module.load() for module in modules]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_was_composed_before_the_change_is_not_exported(tmp_path: Path, change: Change) -> None:
    recipe = parse({"sources": [{"path": str(peft_folder(tmp_path / name, seed=len(name)))} for name in ("a", "bb")]})
    composition = compose(recipe)
    change(tmp_path / "a" / WEIGHTS)
    with pytest.raises(Changed):
        export(composition, recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_config_that_changed_counts_too(tmp_path: Path) -> None:
    recipe = parse({"sources": [{"path": str(peft_folder(tmp_path / "a"))}]})
    sources = open_sources(recipe)
    config = tmp_path / "a" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    with pytest.raises(Changed, match=r"adapter_config\.json"):
        compose(recipe, sources)


def test_the_base_of_a_dora_counts_too(tmp_path: Path) -> None:
    magnitude = {"q_proj.lora_magnitude_vector": np.ones(8, np.float32)}
    folder = peft_folder(tmp_path / "a", modules={"q_proj": (8, 8)}, use_dora=True, extras=magnitude)
    base = tmp_path / "base.safetensors"
    save_file({"q_proj.weight": np.eye(8, dtype=np.float32)}, base)
    adapter = open_dora(folder, base)
    adapter.delta("q_proj")
    rewritten(base)
    with pytest.raises(Changed, match=r"base\.safetensors"):
        adapter.delta("q_proj")


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_did_not_change_is_exported_under_the_hash_of_its_bytes(tmp_path: Path, container: str) -> None:
    where, file = CONTAINERS[container](tmp_path / "a")
    opened = open_source(Source(path=where))
    if container != "shards":
        assert opened.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    recipe = parse({"sources": [{"path": where, "sha256": opened.sha256}]})
    out = export(compose(recipe), recipe, tmp_path / "out")
    assert load(out / "recipe.yaml").sources[0].sha256 == opened.sha256


def test_the_hash_of_shards_is_of_their_values_and_not_of_their_index(tmp_path: Path) -> None:
    where, file = _shards(tmp_path / "a")
    before = open_source(Source(path=where)).sha256
    tensors = load_file(file)
    save_file(tensors, file, {"note": "the same values"})
    assert open_source(Source(path=where)).sha256 == before
    save_file({key: value + 1 for key, value in tensors.items()}, file)
    assert open_source(Source(path=where)).sha256 != before


def test_the_exported_recipe_pins_the_bytes_that_were_merged(tmp_path: Path) -> None:
    """Changed, added again, exported: the recipe runs again and gives the same bytes."""
    workspace = Workspace(tmp_path / "workspace")
    for name in ("a", "bb"):
        workspace.add(Source(path=str(peft_folder(tmp_path / name, seed=len(name)))))
    workspace.compose()
    peft_folder(tmp_path / "a", seed=9)
    with pytest.raises(Changed, match="add it again"):
        export(workspace.compose(), workspace.pinned(), tmp_path / "out")
    workspace.add(Source(path=str(tmp_path / "a")))
    out = export(workspace.compose(), workspace.pinned(), tmp_path / "out")
    again = load(out / "recipe.yaml")
    assert [source.sha256 for source in again.sources] == [
        hashlib.sha256((tmp_path / name / WEIGHTS).read_bytes()).hexdigest() for name in ("a", "bb")
    ]
    export(compose(again), again, tmp_path / "again")
    assert (out / WEIGHTS).read_bytes() == (tmp_path / "again" / WEIGHTS).read_bytes()


def test_added_again_it_keeps_its_weight_and_place(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    for name in ("a", "bb"):
        workspace.add(Source(path=str(peft_folder(tmp_path / name, seed=len(name)))))
    workspace.edit_source(0, "weight", weight=0.37)
    before = workspace.version
    peft_folder(tmp_path / "a", seed=9)
    workspace.add(Source(path=str(tmp_path / "a")))
    assert [source.weight for source in workspace.recipe.sources] == [0.37, None]
    assert workspace.version > before
    with pytest.raises(LoomError, match="is open already"):
        workspace.add(Source(path=str(tmp_path / "a")))


def test_a_file_that_was_only_touched_is_added_again_as_the_same(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    first = workspace.add(Source(path=str(peft_folder(tmp_path / "a"))))
    (tmp_path / "a" / WEIGHTS).touch()
    with pytest.raises(Changed):
        workspace.compose()
    assert workspace.add(Source(path=str(tmp_path / "a"))).sha256 == first.sha256
    workspace.compose()
    workspace.move(-1)
    workspace.compose()


CUT_WHILE_READ = """
import io, os, pathlib, sys
from studio import open_adapter
from studio.core.errors import Changed

class Cut(io.BufferedReader):
    def readinto(self, buffer):
        os.truncate(sys.argv[1] + "/adapter_model.safetensors", int(sys.argv[2]))
        return super().readinto(buffer)

adapter = open_adapter(sys.argv[1])
pathlib.Path.open = lambda self, mode: Cut(io.FileIO(self))
try:
    print(adapter.delta("model.layers.1.self_attn.v_proj"))
except Changed as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("size", [0, 300])
def test_a_file_cut_while_it_is_read_does_not_end_the_process(tmp_path: Path, size: int) -> None:
    """After the check and before the bytes: a mapping would end the process here, by a signal."""
    folder = peft_folder(tmp_path / "a")
    command = [sys.executable, "-c", CUT_WHILE_READ, str(folder), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("refused: adapter_model.safetensors in a has changed")


def test_values_are_read_whole_or_not_at_all_while_somebody_writes(tmp_path: Path) -> None:
    """A writer changes every byte over and over: whatever is read without `Changed` is what was opened."""
    path = tmp_path / "x.safetensors"
    save_file({"x": np.ones(1 << 16, np.float32)}, path)
    first = (path.stat().st_size - 4 * (1 << 16)), path.stat().st_size
    tensor, stopped = open_tensors(path).tensors["x"], threading.Event()
    np.testing.assert_array_equal(tensor.read(), 1)

    def write() -> None:
        value = 2.0
        while not stopped.is_set():
            with path.open("rb+") as file:
                file.seek(first[0])
                file.write(np.full(1 << 16, value, np.float32).tobytes())
            value += 1

    writer = threading.Thread(target=write)
    writer.start()
    refused = 0
    for _ in range(200):
        try:
            np.testing.assert_array_equal(tensor.read(), 1)
        except Changed:
            refused += 1
    stopped.set()
    writer.join()
    assert refused
    with pytest.raises(Changed):
        tensor.read()


def test_a_file_that_cannot_be_read_any_more_is_the_same_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345678")
    source = SourceFile.of(path)

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(Changed, match="can no longer be read: Permission denied"):
        source.read(0, 8)


def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from studio.cli.main import main
    from studio.composing import preflight

    folder = peft_folder(tmp_path / "a")
    check = preflight.check

    def retrained(*given: object, **more: object) -> object:
        peft_folder(tmp_path / "a", seed=9)
        return check(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("studio.composing.preflight.check", retrained)
    assert main(["merge", str(folder), "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "has changed since it was opened" in said
    assert not (tmp_path / "out").exists()
