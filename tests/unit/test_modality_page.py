"""docs/explanation/evidence-modality.md is what bench/results say, and what they say holds together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.modality_page import MIXTURE, MODES, PAGE, PHI4, page


@pytest.fixture(scope="module")
def found() -> tuple[dict[str, Any], dict[str, Any]]:
    mixture, phi4 = (json.loads(path.read_text()) for path in (MIXTURE, PHI4))
    return mixture, phi4


def test_the_page_is_what_the_results_say(found: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(*found)


def test_the_rule_is_best_or_nearly_in_every_row(found: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """No single adapter and no merge is better than the rule by more than two points in any mode."""
    for seed in found[0]["seeds"]:
        for mode in MODES:
            row = seed["matrix"][mode]
            assert row["rule"] >= max(row.values()) - 0.02
        assert seed["invariance"]["equal"] == seed["invariance"]["prompts"] > 0


def test_the_shapes_are_phi4s(found: tuple[dict[str, Any], dict[str, Any]]) -> None:
    phi4 = found[1]
    assert phi4["open"]["ranks"] == [[256], [320]]
    assert phi4["open"]["modules"] == [128, 128]
    parameters = (32 * 256 * 45056, 32 * 320 * 45056)
    for size, count in zip(phi4["extract"]["bytes"], parameters, strict=True):
        assert 0 < size - 2 * count < 100_000  # bfloat16 and a header
    assert phi4["split"]["is_exact"] is True
    assert phi4["reopen"]["difference"] == 0
