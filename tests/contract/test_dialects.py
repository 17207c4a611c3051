"""What every dialect keeps: it is declared, listed and documented, reads its own files and claims no other's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from studio.core.errors import Refused
from studio.core.tensors import in_memory
from studio.formats import DIALECTS, open_adapter, read_bundle
from studio.formats.containers.bundle import open_bundle, split_selection
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.guards import path_of
from tests.contract.account import check_account
from tests.contract.dialect_files import FILES, DialectFile
from tests.contract.registry import unlisted

EVERY = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
EVERY_FILE = pytest.mark.parametrize("file", FILES, ids=lambda file: file.label)


def test_every_dialect_that_is_declared_is_listed() -> None:
    assert unlisted("studio.formats.dialects", Dialect, DIALECTS) == []


@EVERY
def test_a_dialect_has_a_file_that_tests_read(dialect: Dialect) -> None:
    assert dialect.id in {file.dialect for file in FILES}, (
        f"no file of {dialect.id} is in FILES of tests/contract/dialect_files.py"
    )


@EVERY
def test_a_dialect_says_what_the_docs_need(dialect: Dialect) -> None:
    said = (dialect.id, dialect.title, dialect.source, dialect.keys, dialect.scaling, dialect.names)
    assert all(text.strip() == text and text and "|" not in text and "\n" not in text for text in said), said


@EVERY_FILE
def test_a_file_is_claimed_by_its_own_dialect_and_no_other_that_is_not_declared(
    file: DialectFile, tmp_path: Path
) -> None:
    claims = claimed_by(file, tmp_path)
    assert file.dialect in claims, f"{file.dialect} does not recognise {file.about}"
    others = claims - {file.dialect} - DIALECTS[file.dialect].also_claimed_by.keys()
    assert not others, (
        f"{', '.join(others)} claims {file.label}, too: make one sniff more precise, or declare it in also_claimed_by"
    )


@EVERY
def test_those_that_claim_its_files_too_are_asked_later(dialect: Dialect, tmp_path: Path) -> None:
    order = list(DIALECTS)
    files = [file for file in FILES if file.dialect == dialect.id]
    claims = set().union(*(claimed_by(file, tmp_path / str(index)) for index, file in enumerate(files)))
    for other, reason in dialect.also_claimed_by.items():
        assert reason, f"{dialect.id} does not say why {other} claims its files, too"
        assert order.index(dialect.id) < order.index(other), f"{dialect.id} should stand before {other} in DIALECTS"
        assert other in claims, f"{other} claims no file of {dialect.id}: nothing to declare"


@EVERY_FILE
def test_a_file_is_read_as_its_dialect_with_the_evidence(file: DialectFile, tmp_path: Path) -> None:
    adapter = open_adapter(file.write(tmp_path))
    assert adapter.dialect == file.dialect
    assert adapter.evidence
    assert adapter.modules
    for module in adapter.modules.values():
        delta = module.delta()
        assert delta.shape == (module.d_out, module.d_in)
        assert np.isfinite(delta).all()
        assert delta.any()


@EVERY_FILE
def test_every_tensor_and_every_scaling_is_accounted_for(file: DialectFile, tmp_path: Path) -> None:
    path = file.write(tmp_path)
    check_account(open_adapter(path), open_bundle(*split_selection(path)))


@EVERY_FILE
@pytest.mark.parametrize("ending", ["mask", "mapping", "weight_scale", "scalar", "unknown.thing"])
def test_a_tensor_under_a_pairs_own_path_that_nobody_knows_refuses_the_pair(
    file: DialectFile, ending: str, tmp_path: Path
) -> None:
    bundle = open_bundle(*split_selection(file.write(tmp_path)))
    module = next(iter(read_bundle(bundle).modules.values()))
    key = path_of(module.keys) + ending
    odd = {**bundle.file.tensors, key: in_memory(np.ones((2, 2), np.float32))}
    if key == ending:
        return  # a list of tensors has no paths
    with pytest.raises(Refused):
        read_bundle(replace(bundle, file=replace(bundle.file, tensors=odd)))


@EVERY_FILE
def test_a_name_is_refused_where_a_file_holds_one_adapter(file: DialectFile, tmp_path: Path) -> None:
    path = file.write(tmp_path)
    if DIALECTS[file.dialect].several:
        return
    with pytest.raises(Refused, match="without a name"):
        open_adapter(f"{path}#other")


def claimed_by(file: DialectFile, folder: Path) -> set[str]:
    """The dialects whose `sniff` recognises a file."""
    folder.mkdir(parents=True, exist_ok=True)
    bundle = open_bundle(*split_selection(file.write(folder)))
    return {name for name, dialect in DIALECTS.items() if dialect.sniff(bundle)}
