"""The packages as they import each other: which stands above which, and what a test and the picture of them go by."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# From the ground up. Packages on one line know nothing of each other; `studio` is the Python face and `__main__`.
LAYERS = (
    "studio.core",
    "studio.audio studio.formats studio.text studio.units",
    "studio.merging",
    "studio.recipes",
    "studio.composing",
    "studio.evaluation studio.session studio.vision",
    "studio.learning",
    "studio.routing",
    "studio.mixture",
    "studio.ui",
    "studio.cli",
    "studio",
    "training",
)
FLOORS = MappingProxyType({package: floor for floor, layer in enumerate(LAYERS) for package in layer.split()})


class Arrow(NamedTuple):
    """One import, wherever in the file it stands: inside functions and for types only, too."""

    module: str
    target: str
    place: str

    def __str__(self) -> str:
        return f"{self.place}: {self.module} -> {self.target}"


def module_name(path: Path) -> str:
    """`studio/a/b.py` and `studio/a/b/__init__.py` are both studio.a.b."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: Mapping[str, Path] = MappingProxyType(
    {module_name(path): path for top in ("studio", "training") for path in sorted((ROOT / top).rglob("*.py"))}
)
"""Every module of the studio and its training by name."""


def arrows(module: str, path: Path) -> Iterator[Arrow]:
    """What a file imports; `from package import module` leads to the module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            wanted = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in wanted]
        for name in dict.fromkeys(names):
            yield Arrow(module, name, f"{path.relative_to(ROOT)}:{node.lineno}")


def package(module: str) -> str:
    """The package of a layer that a module belongs to: studio.a of studio.a.b, training of training.c."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "studio" and parts[1:] not in ([], ["__main__"]) else parts[0]


def imported() -> dict[str, set[str]]:
    """The other packages that each package imports from."""
    found: dict[str, set[str]] = {package(module): set() for module in MODULES}
    for module, path in MODULES.items():
        targets = {package(arrow.target) for arrow in arrows(module, path) if arrow.target in MODULES}
        found[package(module)] |= targets - {package(module)}
    return found
