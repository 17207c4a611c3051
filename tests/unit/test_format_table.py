"""The table of dialects in the docs is the one that the code gives, and every test that it leans on is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from studio.formats import WRITERS
from tools.sections import formats as format_table

ROOT = Path(__file__).parents[2]


def test_every_format_that_is_written_is_tested_with_its_owner() -> None:
    assert format_table.WRITTEN.keys() == WRITERS.keys()
    assert format_table.READ.keys() <= set(format_table.dialects())


LIBRARIES = {"PEFT": "peft", "diffusers": "diffusers", "mlx-lm": "mlx_lm", "gguf": "gguf"}


@pytest.mark.parametrize("proof", [*format_table.READ.values(), *format_table.WRITTEN.values()])
def test_an_owner_that_is_named_is_really_imported_by_the_tests(proof: tuple[str, tuple[str, ...]]) -> None:
    owner, tests = proof
    if not owner:
        return
    library = next(module for name, module in LIBRARIES.items() if owner.startswith(name))
    for file in {name.partition("::")[0] for name in tests}:
        source = (ROOT / "tests" / "unit" / f"{file}.py").read_text(encoding="utf-8")
        assert re.search(rf"(?:from|import) {library}\b|importorskip\(.{library}", source), (owner, file)


@pytest.mark.parametrize("proof", [*format_table.READ.values(), *format_table.WRITTEN.values()])
def test_the_tests_that_it_names_exist(proof: tuple[str, tuple[str, ...]]) -> None:
    for name in proof[1]:
        file, _, test = name.partition("::")
        assert f"def {test}(" in (ROOT / "tests" / "unit" / f"{file}.py").read_text(encoding="utf-8"), name
