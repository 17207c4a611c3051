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
from tests.fixtures import peft_folder

DOCS = Path(__file__).parents[2] / "docs"
BY_HAND = ("python -m venv .venv && . .venv/bin/activate", "pip install .", "loom")
"""Lines that a test cannot run: they make the environment that it runs in, or a server."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """The blocks of a page in order: their language and text."""
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
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


def done(found: Iterator[tuple[str, str]]) -> dict[str, Any]:
    """Do what blocks say, in the folder one is in; the names that their Python leaves behind."""
    names: dict[str, Any] = {}
    printed = ""
    for language, text in found:
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
    return names


@pytest.mark.slow
def test_the_tutorial_works_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = done(blocks((DOCS / "tutorial" / "first-half-hour.md").read_text(encoding="utf-8")))
    assert {"both", "both-8", "soup", "soup-mlx"} <= {path.name for path in tmp_path.iterdir()}
    assert " ".join(names["answers"]).split() == ["flower", "two", "SEVEN", "TWO"]


def test_a_merge_is_handed_to_peft_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "how-to" / "hand-off.md").read_text(encoding="utf-8")
    names = done(blocks(page.partition("\n## PEFT\n")[2].partition("\n## ")[0]))
    assert names["model"].peft_config["default"].r == 16


def test_a_merge_on_a_device_works_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("adapter-a", "adapter-b"):
        peft_folder(tmp_path / name)
    page = (DOCS / "how-to" / "gpu.md").read_text(encoding="utf-8").replace('device="cuda"', 'device="cpu"')
    names = done((language, text) for language, text in blocks(page) if language == "python")
    assert names["report"].modules
