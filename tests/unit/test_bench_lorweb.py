"""The benchmark of a LoRWeB request: its shapes are the released ones, its figures those of the docs, and it runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench import lorweb

ROOT = Path(__file__).parents[2]


def test_shapes_are_those_of_the_released_basis() -> None:
    found = list(lorweb.shapes())
    assert len(found) == len({name for name, _, _ in found}) == 494
    factors = lorweb.SIZE * lorweb.RANK * sum(n + m for _, n, m in found)
    routing = len(found) * lorweb.KEYS * (lorweb.SIZE + lorweb.QUERY)
    assert factors + routing == 835_051_520  # the number in the authors' model card


def test_the_docs_say_what_was_measured() -> None:
    found = json.loads((ROOT / "bench" / "results" / "lorweb.json").read_text())
    said = " ".join((ROOT / "docs" / "reference" / "analogy.md").read_text().split())
    route, write = (found["spent"][name]["cpu_seconds"] for name in ("route", "mix_and_write"))
    assert f"routing takes {route:.2f} s and mixing with writing {write:.2f} s of CPU time" in said
    assert f"{found['bytes_written'] / 1e6:.0f} MB written" in said


def test_the_docs_say_what_was_measured_on_a_gpu() -> None:
    found = json.loads((ROOT / "bench" / "results" / "lorweb_cuda.json").read_text())
    said = " ".join((ROOT / "docs" / "reference" / "analogy.md").read_text().split())
    route, write, step = (found["spent"][name]["seconds"] for name in ("route", "mix_and_write", "step"))
    share = f"{100 * found['share_of_an_image']:.2f} % of one image"
    assert f"routing {1e3 * route:.0f} ms, mixing and writing {1e3 * write:.0f} ms" in said
    assert f"against {lorweb.STEPS} steps of {step:.3f} s: {share}" in said
    assert f"a peak of {found['peak_bytes'] / 1e9:.1f} GB" in said


def test_it_runs_with_a_small_transformer() -> None:
    options = argparse.Namespace(device="cpu", transformer=True, tiny=True, repeats=1)
    found = lorweb.measured(options)
    assert found["modules"] == 20
    assert 0 < found["share_of_an_image"] < 1
