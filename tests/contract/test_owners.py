"""What the docs call tested with its owner's library is tested with it: which tests read and load the owner's way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from studio.formats import DIALECTS, WRITERS

UNIT = Path(__file__).parents[1] / "unit"
LIBRARIES = {"PEFT": "peft", "diffusers": "diffusers", "mlx-lm": "mlx_lm", "gguf": "gguf"}

Proofs = Mapping[str, tuple[str, ...]]
READ: Proofs = {
    "peft": ("test_formats_peft::test_reads_what_peft_wrote",),
    "adalora": ("test_formats_adalora::test_reads_what_peft_merges",),
    "lycoris": ("test_formats_dialects::test_pefts_own_loha_and_lokr",),
    "diffusers": ("test_formats_owners::test_reads_what_diffusers_saved",),
    "kohya": (
        "test_formats_dialects::test_original_sdxl_names_translate_as_diffusers_own_converter_does",
        "test_formats_originals::test_kohya_reads_as_diffusers_converts_it",
    ),
    "xlabs": ("test_formats_originals::test_xlabs_reads_as_diffusers_converts_it",),
    "bfl": ("test_formats_originals::test_bfl_control_reads_as_diffusers_converts_it",),
    "comfyui": ("test_formats_originals::test_original_names_read_as_diffusers_converts_them",),
    "mlx": ("test_formats_owners::test_reads_what_mlx_trained",),
    "gguf": ("test_formats_containers::test_gguf_alpha_zero_means_one",),
}
WRITTEN: Proofs = {
    "peft": ("test_formats_peft::test_stock_peft_loads_the_export_with_equal_deltas",),
    "diffusers": (
        "test_formats_writers::test_diffusers_loads_the_export_with_equal_deltas",
        "test_formats_writers::test_diffusers_loads_a_flux_export_with_equal_deltas",
    ),
    "kohya": (
        "test_formats_writers::test_diffusers_loads_the_export_with_equal_deltas",
        "test_formats_writers::test_diffusers_converts_a_kohya_flux_export_to_equal_deltas",
    ),
    "mlx": ("test_formats_writers::test_mlx_lm_loads_the_export_with_equal_deltas",),
    "gguf": ("test_formats_writers::test_the_gguf_package_reads_what_llama_cpp_would_apply",),
}
READERS = {name: dialect.tested_with for name, dialect in DIALECTS.items() if dialect.tested_with}
TARGETS = {name: writer.tested_with for name, writer in WRITERS.items()}


@pytest.mark.parametrize("name", READERS)
def test_a_dialect_that_is_tested_with_its_owner_names_the_tests(name: str) -> None:
    assert name in READ, f"{name} says tested_with={READERS[name]!r}: name the test in READ"
    require_tests(READ[name], READERS[name])


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_names_the_tests_in_which_its_owner_loads_an_export(name: str) -> None:
    assert name in WRITTEN, f"{name} says tested_with={TARGETS[name]!r}: name the test in WRITTEN"
    require_tests(WRITTEN[name], TARGETS[name])


def test_no_test_is_named_for_what_is_gone() -> None:
    assert READ.keys() == READERS.keys()
    assert WRITTEN.keys() == TARGETS.keys()


def require_tests(tests: tuple[str, ...], owner: str) -> None:
    """The tests exist, and their files import the owner's library."""
    library = next((module for title, module in LIBRARIES.items() if owner.startswith(title)), None)
    assert library, f"{owner!r} begins with none of {', '.join(LIBRARIES)}"
    for file, _, test in (name.partition("::") for name in tests):
        source = (UNIT / f"{file}.py").read_text(encoding="utf-8")
        assert f"def {test}(" in source, f"{file}.py has no {test}"
        assert re.search(rf"(?:from|import) {library}\b|importorskip\(.{library}", source), f"{file}.py: {library}"
