"""The tables of docs/reference/formats.md: dialects, what is read of them, export targets, PEFT's fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from studio.formats import DIALECTS, WRITERS
from studio.formats.modules.peft_fields import FIELDS, HOW


def dialects() -> str:
    """Who writes each dialect, what it is tested with, and which export targets are read back as it."""
    targets = {name: [writer.id for writer in WRITERS.values() if writer.dialect == name] for name in DIALECTS}
    return _table(
        ("dialect", "written by", "source", "reading tested with", "export"),
        (
            (f"`{name}`", it.title, it.source, it.tested_with or "its definition", _code(targets[name]))
            for name, it in sorted(DIALECTS.items())
        ),
    )


def reading() -> str:
    """By what each dialect is recognised and what is made of it, in the order in which they are asked."""
    return _table(
        ("dialect", "recognised by", "scaling", "names become", "asked before"),
        ((f"`{name}`", it.keys, it.scaling, it.names, _code(it.also_claimed_by)) for name, it in DIALECTS.items()),
    )


def targets() -> str:
    """The export targets."""
    return _table(
        ("format", "what it is", "files", "cannot carry", "loaded in the tests by"),
        (
            (f"`{name}`", f"{it.title}, {it.about}", _code(it.files), it.cannot_carry, it.tested_with)
            for name, it in WRITERS.items()
        ),
    )


def fields() -> str:
    """PEFT's config fields and what is done with each."""
    return _table(
        ("field of LoraConfig", "what is done", ""),
        ((f"`{field}`", HOW[how], text) for field, (how, text) in FIELDS.items()),
    )


def sections() -> dict[str, Callable[[], str]]:
    """The tables by their marks."""
    return {"dialects": dialects, "reading": reading, "export targets": targets, "fields of LoraConfig": fields}


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table as Markdown."""
    lines = (head, ("---",) * len(head), *rows)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
