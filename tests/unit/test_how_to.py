"""The how-to pages: what they tell a reader to write and to run is written and run, in a copy of the project.

A page takes part where it has a block titled "Check it". Every other titled block is a new file, or, as a diff, a
change of one that is there; its title is the path.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.waiting import LIMIT

ROOT = Path(__file__).parents[2]
CHECK = "Check it"
LEFT_OUT = (".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "build", "dist", "site", "*.egg-info")
_BLOCK = re.compile(r'^```(\w+) title="([^"\n]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A titled block of a page."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The titled blocks of a page, in order."""
    return [Block(*found) for found in _BLOCK.findall(page.read_text(encoding="utf-8"))]


PAGES = {
    page.stem: page
    for page in sorted((ROOT / "docs" / "how-to").glob("*.md"))
    if any(block.title == CHECK for block in blocks(page))
}


def changed(text: str, diff: str) -> str:
    """The text with a diff applied: its kept and removed lines must stand there together, exactly once."""
    lines = diff.splitlines(keepends=True)
    old, new = ("\n" + "".join(line[1:] or line for line in lines if line[0] != sign) for sign in "+-")
    found = f"\n{text}".count(old)
    assert found == 1, f"these lines should be there once, not {found} times:{old}"
    return f"\n{text}".replace(old, new)[1:]


def write(tree: Path, block: Block) -> None:
    """Do what a block says to a copy of the project."""
    path = tree / block.title
    if block.language == "diff":
        path.write_text(changed(path.read_text(encoding="utf-8"), block.text), encoding="utf-8")
    else:
        assert not path.exists(), f"{block.title} is there already"
        path.write_text(block.text, encoding="utf-8")


def run(tree: Path, line: str) -> str:
    """Run a line of a page in a copy of the project, as a reader would; what it said."""
    first, *words = shlex.split(line)
    assert first == "python", line
    outer = ("PYTEST_", "COV_")  # of the run that this test belongs to
    environment = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    done = subprocess.run(
        [sys.executable, *words], cwd=tree, env=environment, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A copy of the project, removed afterwards."""
    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    yield copy
    shutil.rmtree(copy)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_reader_who_does_what_the_page_says_gets_there(name: str, tree: Path) -> None:
    for block in blocks(PAGES[name]):
        if block.title != CHECK:
            write(tree, block)
        else:
            said = [run(tree, line) for line in block.text.splitlines()]
            assert "passed" in "".join(said)


@pytest.mark.parametrize("name", PAGES)
def test_what_is_written_is_in_the_projects_own_style(name: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for block in blocks(PAGES[name]):
        if block.language == "python":
            file = tmp_path / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
    for verb in (("check", "-q"), ("format", "--check", "-q")):
        command = [sys.executable, "-m", "ruff", *verb, "--no-cache", "."]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_pages_that_are_promised_are_tried() -> None:
    assert {"merge-method", "dialect", "export-target", "router", "learner", "skill", "room"} <= set(PAGES)


def test_a_diff_is_applied_where_its_lines_stand() -> None:
    assert changed("a\nb\n\nc\n", " b\n-\n+new\n c\n") == "a\nb\nnew\nc\n"
    with pytest.raises(AssertionError, match="once, not 2 times"):
        changed("b\nc\nb\n", " b\n+c\n")
