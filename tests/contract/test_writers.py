"""What every export target keeps: it is declared and listed, and what it carries comes back as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from studio.core.adapter import Adapter
from studio.core.errors import LoomError
from studio.formats import DIALECTS, WRITERS, open_adapter, save_adapter
from studio.formats.saving import relative_error
from studio.formats.writers.registry import Writer
from tests.contract.dialect_files import FILES, DialectFile
from tests.contract.registry import unlisted

EVERY = pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
EVERY_FILE = pytest.mark.parametrize("file", FILES, ids=lambda file: file.label)
PIPELINE = ("unet.", "text_encoder", "transformer.transformer_blocks.", "transformer.single_transformer_blocks.")
BASE = {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2}


def test_every_writer_that_is_declared_is_listed() -> None:
    assert unlisted("studio.formats.writers", Writer, WRITERS) == []


@EVERY
def test_a_writer_names_a_dialect_that_reads_it_back_and_files_of_its_own(writer: Writer) -> None:
    assert writer.dialect in DIALECTS, f"{writer.id} is read back by {writer.dialect!r}, which is no dialect"
    assert writer.title
    assert writer.about
    assert writer.files


@EVERY_FILE
def test_what_is_carried_comes_back_equal_and_the_rest_is_refused_by_name(tmp_path: Path, file: DialectFile) -> None:
    adapter = read(file, tmp_path)
    for name, writer in WRITERS.items():
        why = refusal(writer, adapter)
        if why is None:
            assert not beyond(writer, adapter), f"{name} carries {file.label}, which its record denies"
            assert_equal(written(writer, adapter, tmp_path / name), adapter)
        else:
            assert name in why.lower()
            assert beyond(writer, adapter) or writer.besides, f"{name} refuses {file.label}, which its record promises"


@EVERY
def test_a_writer_carries_what_its_dialect_reads_unless_its_record_says_so(tmp_path: Path, writer: Writer) -> None:
    own = [file for file in FILES if file.dialect == writer.dialect]
    adapters = [read(file, tmp_path / str(index)) for index, file in enumerate(own)]
    carried = [adapter for adapter in adapters if not beyond(writer, adapter)]
    assert carried, f"no file of {writer.dialect} in tests/contract/dialect_files.py is one that {writer.id} carries"
    assert [refusal(writer, adapter) for adapter in carried] == [None] * len(carried)


@EVERY
def test_a_writer_makes_the_files_that_it_lists(tmp_path: Path, writer: Writer) -> None:
    own = [read(file, tmp_path / str(i)) for i, file in enumerate(FILES) if file.dialect == writer.dialect]
    written(writer, next(adapter for adapter in own if refusal(writer, adapter) is None), tmp_path)
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == set(writer.files)


def read(file: DialectFile, folder: Path) -> Adapter:
    """The adapter of a file that is made in this folder."""
    (folder / "in").mkdir(parents=True)
    return open_adapter(file.write(folder / "in"))


def written(writer: Writer, adapter: Adapter, folder: Path) -> Adapter:
    """An adapter after its export into `folder / "out"`, opened again as anyone would."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(BASE))
    again = open_adapter(save_adapter(adapter, folder / "out", writer.id, base_config=folder))
    assert again.dialect == writer.dialect
    return again


def refusal(writer: Writer, adapter: Adapter) -> str | None:
    """Why a writer does not hold an adapter, or None."""
    try:
        writer.require(adapter, BASE)
    except LoomError as error:
        return str(error)
    return None


def beyond(writer: Writer, adapter: Adapter) -> bool:
    """Whether the record says that the format does not hold this."""
    of_pipeline = {name.startswith(PIPELINE) for name in adapter.modules}
    other_models = {"any": False, "image pipelines": False in of_pipeline, "language models": True in of_pipeline}
    other_kinds = {module.kind for module in adapter.modules.values()} - set(writer.kinds)
    return bool(other_models[writer.models] or other_kinds or (adapter.extras and not writer.full_tensors))


def assert_equal(again: Adapter, adapter: Adapter) -> None:
    """The same updates, but for zero parts of fused layers that nobody adapted, and the same full tensors."""
    kept = {name: module for name, module in again.modules.items() if module.norm()}
    assert {name: module.kind for name, module in kept.items()} == {
        name: module.kind for name, module in adapter.modules.items()
    }
    assert max(relative_error(module, kept[name]) for name, module in adapter.modules.items()) <= 1e-6
    assert again.extras.keys() == adapter.extras.keys()
    for name, tensor in adapter.extras.items():
        np.testing.assert_array_equal(again.extras[name].read(), tensor.read())
