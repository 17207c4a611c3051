"""What every registry owes: nothing that is declared somewhere in its package is left out of its one list."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules


def unlisted(package: str, kind: type, listed: Mapping[str, object]) -> list[str]:
    """Records of this kind that a file of the package declares and its list does not have, each with its file."""
    found = []
    for module in iter_modules(import_module(package).__path__, f"{package}."):
        for record in vars(import_module(module.name)).values():
            if isinstance(record, kind) and record not in listed.values():
                found.append(f"{module.name} declares {record.id!r}, which {package} does not list")  # type: ignore[attr-defined]
    return found
