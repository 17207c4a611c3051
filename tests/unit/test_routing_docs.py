"""Routing's pages: the evidence is what its program writes from the kept figures, and every flag is explained."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from bench.remix_kept import RESULTS
from bench.remix_page import PAGE, page
from bench.remix_text_page import untuned
from bench.remix_toy_page import SPEC, lands
from studio.cli.route import add_route
from studio.routing.ess import bound_probability, collapse

DOCS = Path(__file__).parents[2] / "docs"


def test_the_evidence_is_written_from_the_kept_figures() -> None:
    assert PAGE.read_text() == page(json.loads(RESULTS.read_text()))


def test_kept_collapse_figures_are_those_of_the_simulation() -> None:
    for norm, row in json.loads(RESULTS.read_text())["collapse"].items():
        found = collapse(float(norm))
        assert row["at_most_2"] == pytest.approx(found.share_below(2), abs=0.01)
        assert row["mean"] == pytest.approx(found.mean, abs=0.03)
        assert row["bound_2"] == bound_probability(float(norm))


def test_the_evidence_holds_every_router_and_three_seeds() -> None:
    found = json.loads(RESULTS.read_text())
    rows = found["text"]["rows"]
    assert {"ReMix M=2", "ReMix M=8", "dense softmax", "top-k softmax", "X-LoRA (PEFT)"} <= set(rows)
    assert {"every subset", "all evenly", "Arrow (PEFT), total 1", "Arrow (PEFT), total 2"} <= set(rows)
    for name, runs in rows.items():
        assert len(runs) >= (3 if name[0] in "RdtX" else 1), name
        if name.startswith("ReMix"):
            assert all(run["support"] == pytest.approx(2) for run in runs)
    assert all(len(runs) == 10 for cells in found["readings"].values() for runs in cells.values())
    for setting, cells in SPEC.items():
        assert all(len(found["toy"][setting][name]) >= 3 for name in cells)


def test_rows_that_are_not_at_their_best_rate_are_named() -> None:
    rates = {"dense softmax": {"0.1": 2.0, "0.03": 1.0}}
    rows = {"all evenly": [{}], "dense softmax": [{"rate": 0.03}], "dense softmax, 500 steps": [{"rate": 0.1}]}
    assert (
        untuned(rows, rates) == "\n\n**Not at the rate that validated best, or not swept: dense softmax, 500 steps.**"
    )
    assert untuned(rows, {}).count("dense softmax") == 2
    del rows["dense softmax, 500 steps"]
    assert untuned(rows, rates) == ""


def test_every_flag_is_explained() -> None:
    parser = argparse.ArgumentParser()
    add_route(lambda *words, **more: parser)
    text = (DOCS / "reference" / "routing.md").read_text()
    flags = [flag for action in parser._actions for flag in action.option_strings if flag not in ("-h", "--help")]
    assert len(flags) > 20
    assert [flag for flag in flags if f"`{flag}`" not in text] == []


def test_the_pages_collapse_figures_are_those_that_are_tested() -> None:
    text = " ".join((DOCS / "reference" / "routing.md").read_text().split())
    pattern = r"at (?:σ‖x‖ = )?(\d+), (?:ESS ≤ 2 for )?(\d+\.\d) %(?: of routers, mean| and) (\d\.\d\d)"
    said = re.findall(pattern, text)
    assert len(said) == 4
    for norm, share, mean in said:
        found = collapse(float(norm))
        assert float(share) == pytest.approx(100 * found.share_below(2), abs=0.4)
        assert float(mean) == pytest.approx(found.mean, abs=0.01)
    assert len(re.findall(r"67\.5 %", text)) == 1


def test_a_band_is_thirty_percent() -> None:
    assert lands(1.29, 1.0)
    assert not lands(1.31, 1.0)
    assert lands(0.0005, 0.0)
