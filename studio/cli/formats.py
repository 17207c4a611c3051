"""The verb `formats`: what is read and what can be written, for people or as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable

from studio.formats import DIALECTS, WRITERS

_READ = ("id", "title", "source", "keys", "scaling", "names", "several", "tested_with")
_WRITTEN = ("id", "title", "about", "files", "dialect", "cannot_carry", "needs_base_config", "tested_with")


def add_formats(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the verb by a subparsers' `add_parser`."""
    verb = add("formats", help="list the dialects that are read and the formats that are written")
    verb.add_argument("--json", action="store_true", help="print one object")
    verb.set_defaults(run=_formats)


def _formats(options: argparse.Namespace) -> int:
    if options.json:
        print(
            json.dumps(
                {"read": _facts(DIALECTS.values(), _READ), "written": _facts(WRITERS.values(), _WRITTEN)}, indent=1
            )
        )
        return 0
    print("read, in this order of detection:")
    for dialect in DIALECTS.values():
        print(f"  {dialect.id:12} {dialect.title}")
    print("written, by --format:")
    for writer in WRITERS.values():
        print(f"  {writer.id:12} {writer.title}, {writer.about}. Cannot carry: {writer.cannot_carry}")
    return 0


def _facts(records: Iterable[object], names: tuple[str, ...]) -> list[dict[str, object]]:
    return [{name: getattr(record, name) for name in names} for record in records]
