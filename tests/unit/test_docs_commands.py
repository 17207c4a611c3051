"""What the docs tell a reader to type works, and prints what they say it prints."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.cli.main import main

DOCS = Path(__file__).parents[2] / "docs"
BY_HAND = ("python -m venv .venv && . .venv/bin/activate", "pip install .", "loom")
"""Lines that a test cannot run: they make the environment that it runs in, or a server."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The blocks of a page in order: their language and text."""
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


def typed(line: str) -> None:
    """Run one line of a shell block."""
    if line in BY_HAND:
        return
    command, *arguments = shlex.split(line)
    assert command == "loom", f"a test does not know how to run: {line}"
    assert main(arguments) == 0, line


def shape(text: str) -> list[list[str]]:
    """The words of each line but libraries' progress bars; numbers are alike, since machines differ in them."""
    lines = [line for line in text.strip().splitlines() if "%|" not in line]
    return [_NUMBER.sub("#", line).replace("\\", "/").split() for line in lines]


def agrees(printed: str, told: str) -> bool:
    """Whether a block of output is what was printed, but for numbers and what `…` leaves out at the start of a line."""
    lines, expected = shape(printed), shape(told)
    return len(lines) == len(expected) and all(
        len(words) == len(wanted)
        and all(
            word == want or (want.startswith("…") and word.endswith(want[1:]))
            for word, want in zip(words, wanted, strict=True)
        )
        for words, wanted in zip(lines, expected, strict=True)
    )


@pytest.mark.slow
def test_the_tutorial_works_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    printed = ""
    for language, text in blocks(DOCS / "tutorial" / "first-half-hour.md"):
        output = io.StringIO()
        if language == "text":
            assert agrees(printed, text), f"{text}\nis not what was printed:\n{printed}"
            continue
        with contextlib.redirect_stdout(output):
            if language == "python":
                exec(text, names)
            else:
                with contextlib.redirect_stderr(output):
                    for line in text.splitlines():
                        typed(line)
        printed = output.getvalue()
    assert {"both", "both-8", "soup", "soup-mlx"} <= {path.name for path in tmp_path.iterdir()}
    assert " ".join(names["answers"]).split() == ["flower", "two", "SEVEN", "TWO"]
