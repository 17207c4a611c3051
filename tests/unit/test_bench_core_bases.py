"""The table of Core Space's bases in the docs is what the recorded outcomes give."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench.core_bases import DENSITIES, RESULTS, summary

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "methods.md"


@pytest.mark.parametrize("density", DENSITIES)
def test_the_page_has_the_recorded_figures(density: float) -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    figures = re.findall(r"[+-]?\d+\.\d", summary(rows, density))
    (line,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {density} | ")]
    assert re.findall(r"[+-]?\d+\.\d", line.replace("−", "-"))[1:] == figures
