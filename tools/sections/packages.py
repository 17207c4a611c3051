"""What each package is, by its own docstring, from the top floor down: docs/explanation/architecture.md."""

from __future__ import annotations

import ast
from collections.abc import Callable

from tools.layers import LAYERS, MODULES


def sections() -> dict[str, Callable[[], str]]:
    """The table of packages."""
    return {"packages": packages}


def packages() -> str:
    """The table as Markdown."""
    names = [package for layer in reversed(LAYERS) for package in layer.split()]
    return "\n".join(["| package | |", "| --- | --- |", *(f"| `{name}` | {_about(name)} |" for name in names)])


def _about(package: str) -> str:
    text = ast.get_docstring(ast.parse(MODULES[package].read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())
