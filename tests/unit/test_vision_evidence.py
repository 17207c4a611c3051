"""The page of evidence says what the training run measured, and says it plainly."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from studio.vision.pipeline import EMBEDDED
from training.vision import evidence


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((EMBEDDED / "results.json").read_text(encoding="utf-8"))
    return found


def test_the_page_is_the_one_that_the_results_give(results: dict[str, Any]) -> None:
    assert evidence.PAGE.read_text(encoding="utf-8") == evidence.page(results)


def test_two_seeds_of_every_contender_stand_behind_it(results: dict[str, Any]) -> None:
    for kind in ("lorweb", "single-total", "single-active"):
        assert {f"{kind}-0", f"{kind}-1"} <= results["scores"].keys() & results["fits"].keys()
    seconds = [fit["seconds"] for name, fit in results["fits"].items() if name[-1].isdigit()]
    assert max(seconds) - min(seconds) < 1  # equal training time


def test_the_headline_follows_the_figures(results: dict[str, Any]) -> None:
    assert "not on unseen transforms" in evidence.headline(results)
    better = copy.deepcopy(results)
    for seed in "01":
        better["scores"][f"lorweb-{seed}"]["transform"]["psnr"] = 99.0
    assert "not on" not in evidence.headline(better)
    better["scores"]["lorweb-1"]["pair"]["psnr"] = 0.0
    assert evidence.headline(better).endswith("not on unseen pairs.**")
