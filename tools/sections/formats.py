"""The tables of dialects and of PEFT's fields in docs/reference/formats.md.

Which dialects are read and written is taken from the studio's own lists. A dialect counts as tested with its owner only
by the name of a test, and tests/unit/test_format_table.py fails where that test is gone or the page is not this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from studio.formats import DIALECTS, WRITERS
from studio.formats.modules.peft_fields import FIELDS, HOW


class Proof(NamedTuple):
    """The library that a dialect was tested with, and the tests in tests/unit."""

    owner: str
    tests: tuple[str, ...]


READ: Mapping[str, Proof] = {
    "peft": Proof("PEFT", ("test_formats_peft::test_reads_what_peft_wrote",)),
    "lycoris": Proof("PEFT, for its own LoHa and LoKr", ("test_formats_dialects::test_pefts_own_loha_and_lokr",)),
    "diffusers": Proof("diffusers", ("test_formats_owners::test_reads_what_diffusers_saved",)),
    "kohya": Proof(
        "diffusers' converters",
        (
            "test_formats_dialects::test_original_sdxl_names_translate_as_diffusers_own_converter_does",
            "test_formats_originals::test_kohya_reads_as_diffusers_converts_it",
        ),
    ),
    "xlabs": Proof("diffusers' converter", ("test_formats_originals::test_xlabs_reads_as_diffusers_converts_it",)),
    "bfl": Proof("diffusers' converter", ("test_formats_originals::test_bfl_control_reads_as_diffusers_converts_it",)),
    "comfyui": Proof(
        "diffusers' converters", ("test_formats_originals::test_original_names_read_as_diffusers_converts_them",)
    ),
    "mlx": Proof("mlx-lm", ("test_formats_owners::test_reads_what_mlx_trained",)),
    "gguf": Proof("gguf", ("test_formats_containers::test_gguf_alpha_zero_means_one",)),
    "lorweb": Proof("", ()),
}
WRITTEN: Mapping[str, Proof] = {
    "peft": Proof("PEFT", ("test_formats_peft::test_stock_peft_loads_the_export_with_equal_deltas",)),
    "diffusers": Proof(
        "diffusers",
        (
            "test_formats_writers::test_diffusers_loads_the_export_with_equal_deltas",
            "test_formats_writers::test_diffusers_loads_a_flux_export_with_equal_deltas",
        ),
    ),
    "kohya": Proof(
        "diffusers",
        (
            "test_formats_writers::test_diffusers_loads_the_export_with_equal_deltas",
            "test_formats_writers::test_diffusers_converts_a_kohya_flux_export_to_equal_deltas",
        ),
    ),
    "mlx": Proof("mlx-lm", ("test_formats_writers::test_mlx_lm_loads_the_export_with_equal_deltas",)),
    "gguf": Proof("gguf", ("test_formats_writers::test_the_gguf_package_reads_what_llama_cpp_would_apply",)),
}
_NAMES = {"comfy": "comfyui", "ai_toolkit": "ai-toolkit"}
_RECOGNISED = ("lorweb",)


def dialects() -> list[str]:
    """Every dialect that is recognised, by the name that a verdict gives it."""
    names = (module.__name__.rpartition(".")[2] for module in DIALECTS)
    return sorted(_NAMES.get(name, name) for name in names)


def table() -> str:
    """The table as Markdown."""
    rows = [
        "| dialect | read | read tested with | written | written tested with |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in dialects():
        read = "recognised, refused by name" if name in _RECOGNISED else "yes"
        tested = READ[name].owner if name in READ else "its definition"
        written = "yes" if name in WRITERS else ""
        rows.append(f"| `{name}` | {read} | {tested} | {written} | {WRITTEN[name].owner if written else ''} |")
    return "\n".join(rows) + "\n"


def fields() -> str:
    """PEFT's config fields and what is done with each, as Markdown."""
    rows = ["| field of LoraConfig | what is done | |", "| --- | --- | --- |"]
    rows += [f"| `{field}` | {HOW[how]} | {text} |" for field, (how, text) in FIELDS.items()]
    return "\n".join(rows) + "\n"


def sections() -> dict[str, Callable[[], str]]:
    """The tables of docs/reference/formats.md."""
    return {"dialects": table, "fields of LoraConfig": fields}
