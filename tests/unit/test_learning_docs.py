"""docs/reference/learning.md names every learner, shape and option that there is, with its default."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import get_args

import pytest

from studio.cli.learn import add_verbs
from studio.learning.coefficients import Granularity, Init, Parameterisation, Settings, phi
from studio.learning.learners import learners
from studio.learning.registry import Selection
from studio.text.skills import SKILLS
from studio.ui.judge.form import MAX_ROWS

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "learning.md").read_text(encoding="utf-8")
ROWS = {name: rest for name, rest in re.findall(r"^\| `(--[a-z0-9-]+)` \|([^|]*)\|", TEXT, flags=re.MULTILINE)}


def options() -> dict[str, argparse.Action]:
    """The options of both verbs by the first of their long names."""
    verbs = argparse.ArgumentParser().add_subparsers()
    add_verbs(verbs.add_parser)
    found: dict[str, argparse.Action] = {}
    for verb in verbs.choices.values():
        for action in verb._actions:
            found |= {name: action for name in [n for n in action.option_strings if n.startswith("--")][:1]}
    del found["--help"]
    return found


def test_the_options_are_all_there_with_their_defaults() -> None:
    known = options()
    assert set(ROWS) == set(known)
    for name, action in known.items():
        default = "off" if action.default is False else "" if action.default in (None, []) else str(action.default)
        assert ROWS[name].strip() == default, name


@pytest.mark.parametrize(
    "names", [learners(), get_args(Parameterisation), get_args(Init), get_args(Granularity), get_args(Selection)]
)
def test_the_choices_are_all_there(names: tuple[str, ...]) -> None:
    rows = [line.partition("|")[2].partition("|")[0] for line in TEXT.splitlines() if line.startswith("| `")]
    listed = {word for row in rows for word in re.findall(r"`([a-z_]+)`", row)}
    assert set(names) <= listed


def test_the_starts_are_as_written() -> None:
    import torch

    found = dict(re.findall(r"^\| `([a-z]+)` \| [^|]+ \| (\d): ", TEXT, flags=re.MULTILINE))
    assert {shape: float(start) for shape, start in found.items()} == {
        shape: Settings(shape).theta for shape in get_args(Parameterisation)
    }
    below = phi(torch.tensor([[-1.0]]), "leaky", torch.ones(1, 1, dtype=torch.bool))
    assert float(below) == pytest.approx(-0.01)


def test_commands_and_limits_are_real() -> None:
    assert f"at most {MAX_ROWS} rows" in TEXT
    for task in re.findall(r"--(?:examples|task|test) (\S+)", TEXT):
        assert task.partition(":")[0] in SKILLS
