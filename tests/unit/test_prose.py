"""The words of the project keep out of a few patterns that make its English hard to read."""

from __future__ import annotations

import pytest

from tools.prose import PATTERNS, faults, found, said
from tools.prose import ROOT as REPOSITORY

SAMPLES = (
    "A picture is no photograph.",
    "Writes it anew.",
    "The run goes on while the page is closed.",
    "It can be taken up again.",
    "The answer stands beside it.",
    "The map shows something else by now.",
    "This is the home of whoever opens it.",
    "It costs nobody else.",
    "It was merged all the same.",
    "There is a cache near by.",
)


def test_every_pattern_catches_its_sample_and_only_that() -> None:
    caught = [{advice for _, _, advice in faults(sample)} for sample in SAMPLES]
    assert caught == [{advice} for advice in PATTERNS.values()]


@pytest.mark.parametrize("text", ["There is no such file.", "It is no longer there.", "`goes on`", "```\nanew\n```"])
def test_what_is_right_is_left_alone(text: str) -> None:
    assert not list(faults(text))


def test_errors_and_help_are_read_wherever_they_are_written() -> None:
    texts = [text for _, text in said(REPOSITORY / "studio" / "cli" / "merge.py")]
    assert "merge adapters, or run a recipe" in texts
    assert any("names its own sources" in text for text in texts)


def test_the_project_has_none_of_them() -> None:
    assert [str(fault) for fault in found()] == []
