"""An adapter is resolved, opened, hashed and judged once; its values are read by the verdict alone."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from studio.core import tensors
from studio.core.errors import CannotMerge, LoomError
from studio.core.files import sha256
from studio.core.source_file import SourceFile
from studio.formats import inspect, open_once, opening
from studio.recipes import sources
from studio.recipes.recipe import Recipe, Source
from studio.recipes.sources import open_source, open_sources
from studio.session.workspace import Workspace
from tests.fixtures import TINY, peft_folder

ONCE = {"resolve": 1, "open_bundle": 1, "sha256": 1}
VALUES = 2 * len(TINY)  # A and B of every module


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often files are resolved, opened, hashed and judged, and their values read."""
    found: Counter[str] = Counter()

    def counted(home: Any, name: str) -> None:
        whole: Callable[..., Any] = getattr(home, name)

        def count(*args: Any, **kwargs: Any) -> Any:
            found[name.strip("_")] += 1
            return whole(*args, **kwargs)

        monkeypatch.setattr(home, name, count)

    counted(sources, "resolve")
    for name in ("open_bundle", "judge"):
        counted(opening, name)
    counted(SourceFile, "sha256")
    counted(tensors._Stored, "__call__")
    return found


def test_a_source_is_opened_and_hashed_once_and_no_value_is_read(tmp_path: Path, counts: Counter[str]) -> None:
    opened = open_source(Source(path=str(peft_folder(tmp_path / "one"))))
    assert counts == ONCE
    assert opened.verdict is opened.verdict
    assert counts == {**ONCE, "judge": 1, "call": VALUES}


def test_the_command_line_reads_no_values_to_open(tmp_path: Path, counts: Counter[str]) -> None:
    paths = [peft_folder(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two"))]
    found = open_sources(Recipe(sources=tuple(Source(path=str(path)) for path in paths)))
    assert [adapter.name for adapter in found.adapters] == ["one", "two"]
    assert counts == {name: 2 for name in ONCE}


def test_a_workspace_opens_each_adapter_once_whatever_names_it(tmp_path: Path, counts: Counter[str]) -> None:
    workspace = Workspace(tmp_path / "workspace")
    workspace.add(Source(path=str(peft_folder(tmp_path / "one")), name="first"))
    workspace.load(workspace.pinned(), "the same, pinned")
    workspace.load(Recipe(sources=(Source(path=str(tmp_path / "one"), name="again"),)), "the same, renamed")
    assert counts == {**ONCE, "judge": 1, "call": VALUES}
    assert [entry.adapter.name for entry in workspace.entries] == ["again"]
    workspace.move(-1)
    assert [entry.adapter.name for entry in workspace.entries] == ["first"]


def test_those_who_open_one_place_at_once_share_it(tmp_path: Path, counts: Counter[str]) -> None:
    workspace, source = Workspace(tmp_path / "workspace"), Source(path=str(peft_folder(tmp_path / "one")))
    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(workspace.library.open, [source] * 8))
    assert len({id(entry.adapter.modules) for entry in entries}) == 1
    assert counts == {**ONCE, "judge": 1, "call": VALUES}


def test_a_place_that_could_not_be_opened_is_tried_again(tmp_path: Path) -> None:
    workspace, source = Workspace(tmp_path / "workspace"), Source(path=str(tmp_path / "one"))
    with pytest.raises(LoomError, match="not there"):
        workspace.add(source)
    peft_folder(tmp_path / "one")
    assert workspace.add(source).adapter.name == "one"


def test_a_file_that_changed_is_opened_anew_for_the_recipe_that_pins_it(tmp_path: Path) -> None:
    workspace, folder = Workspace(tmp_path / "workspace"), peft_folder(tmp_path / "one")
    first = workspace.add(Source(path=str(folder)))
    later = sha256(peft_folder(folder, seed=1) / "adapter_model.safetensors")
    workspace.load(Recipe(sources=(Source(path=str(folder), sha256=later),)), "the new file")
    assert [entry.sha256 for entry in workspace.entries] == [later]
    workspace.move(-1)
    assert [entry.sha256 for entry in workspace.entries] == [first.sha256]


def test_the_digest_is_that_of_the_weights_or_of_the_zip_they_came_in(tmp_path: Path) -> None:
    folder, packed = peft_folder(tmp_path / "one"), tmp_path / "one.zip"
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in (weights, config):
            archive.write(path, path.name)
    assert {open_once(path).sha256 for path in (folder, weights, config)} == {sha256(weights)}
    assert open_once(packed).sha256 == sha256(packed)
    with pytest.raises(CannotMerge, match="SHA-256"):
        open_source(Source(path=str(config), sha256=sha256(config)))


@pytest.mark.parametrize("alpha", [8, 0])
def test_the_verdict_is_what_inspect_says(tmp_path: Path, alpha: float) -> None:
    folder = peft_folder(tmp_path / "one", alpha=alpha)
    assert open_once(folder).verdict == inspect(folder)
