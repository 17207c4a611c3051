"""Laws of the project as a whole: what may import what, what is declared, what one command promises."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.fixtures import peft_folder
from tests.waiting import LIMIT
from tools.layers import ROOT, module_name

SOURCES = sorted((ROOT / "studio").rglob("*.py"))
OUTSIDE_ENGINE = ("studio.ui",)
LATE = ("torch", "transformers", "peft", "diffusers", "umap", "sklearn", "scipy")

IMPORT_WITHOUT_GRADIO = """
import importlib, sys
sys.modules["gradio"] = None
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sys.modules)
"""

RUN_WITH_NOTHING_HEAVY = f"""
import runpy, sys
sys.modules.update(dict.fromkeys(("gradio", *{LATE})))
runpy.run_module("studio", run_name="__main__", alter_sys=True)
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter at the root of the project."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)


def imported_packages(path: Path) -> set[str]:
    """Top-level names that a file imports absolutely, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    froms = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in plain | froms}


def requirements(name: str) -> list[Requirement]:
    """The requirements of a file; an option line (an index, a link) is not one and fails here."""
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


ALL_REQUIREMENTS = requirements("requirements.txt") + requirements("requirements-dev.txt")


@pytest.fixture(scope="module")
def engine_imported() -> subprocess.CompletedProcess[str]:
    """Every module of the engine imported in one interpreter that has no gradio."""
    names = [module_name(path) for path in SOURCES if path.name != "__main__.py"]
    return python(IMPORT_WITHOUT_GRADIO, *(name for name in names if not name.startswith(OUTSIDE_ENGINE)))


def test_engine_imports_without_gradio(engine_imported: subprocess.CompletedProcess[str]) -> None:
    assert engine_imported.returncode == 0, engine_imported.stderr


def test_importing_the_engine_loads_nothing_heavy(engine_imported: subprocess.CompletedProcess[str]) -> None:
    loaded = engine_imported.stdout.split()
    assert "studio.core.late" in loaded
    assert not set(LATE) & set(loaded)


def test_inspect_loads_nothing_heavy(tmp_path: Path) -> None:
    adapter = peft_folder(tmp_path / "adapter")
    result = python(RUN_WITH_NOTHING_HEAVY, "inspect", str(adapter), "--json")

    assert result.returncode == 0, result.stderr
    assert [found["verdict"] for found in json.loads(result.stdout)] == ["ok"]


@pytest.mark.parametrize("requirement", ALL_REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_requirement_has_both_bounds_and_is_met(requirement: Requirement) -> None:
    operators = {bound.operator for bound in requirement.specifier}
    assert operators == {">=", "<"}
    assert version(requirement.name) in requirement.specifier


def test_every_imported_package_is_declared() -> None:
    declared = {canonicalize_name(requirement.name) for requirement in requirements("requirements.txt")}
    distributions = packages_distributions()
    names = set().union(*map(imported_packages, SOURCES)) - sys.stdlib_module_names - {"studio"}
    undeclared = {name for name in names if not declared & set(map(canonicalize_name, distributions.get(name, [])))}
    assert not undeclared


def test_changelog_opens_with_the_version_of_the_project() -> None:
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert project
    assert newest
    assert newest[1] == project[1]


def test_the_shipped_weights_stay_small() -> None:
    sizes = {path: path.stat().st_size for path in (ROOT / "assets").rglob("*") if path.is_file()}
    too_large = [str(path.relative_to(ROOT)) for path, size in sizes.items() if size >= 10 << 20]
    assert not too_large  # a Space refuses them by plain push
    assert sum(sizes.values()) < 90 << 20  # a wheel holds 100
