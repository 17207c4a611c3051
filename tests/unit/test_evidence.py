"""The page on evidence and the README's table say what the results file says, and verdicts follow the intervals."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import pytest

from bench.evidence.__main__ import merged, newest
from bench.evidence.page import (
    PAGE,
    README,
    columns,
    filled,
    found_in,
    more,
    page,
    read_results,
    readme_table,
    verdict,
)
from bench.evidence.world import Size
from studio.evaluation.intervals import Interval

TASKS = columns("math+shout").values()


def part(experiment: str, seed: int, rows: dict[str, str], adapters: int = 0) -> dict[str, Any]:
    """A part whose rows have one string of outcomes at every task."""
    full = {row: dict.fromkeys(TASKS, bits) for row, bits in rows.items()}
    about = {"experiment": experiment, "pair": "math+shout", "seed": seed, "adapters": adapters}
    return {**about, "cpu_seconds": 60.0, "rows": full}


def results(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"about": {"composition": 4, "own": 4, "examples": 50, "device": "cpu"}, "parts": list(parts)}


FULL = results(
    *(part("fixed", seed, {"sum": "1100", "TIES": "0000", "uniform cat": "0000"}) for seed in range(3)),
    *(part("own", seed, {"CAT, own data": "1111", "CAT, 50": "1100"}) for seed in range(3)),
    part("mixing", 0, {"data mixing": "1110"}),
)


def test_the_pages_say_what_the_results_file_says() -> None:
    found = read_results()
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(found) + more(), "run `python -m bench.evidence`"
    links = re.findall(r"\]\(([^)#]+)\)", written)
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
    readme = README.read_text(encoding="utf-8")
    assert readme == filled(readme, found)


def test_figures_and_seeds_are_those_of_the_parts() -> None:
    found = found_in(FULL, "math+shout", ("fixed", "own", "mixing"))
    assert found.seeds["sum"] == (0, 1, 2)
    assert found.both("data mixing", "sum", "math:test")[1].tolist() == [[1, 1, 0, 0]]
    assert found.interval("sum", "math+shout:test").value == 50
    assert found.outcomes["data mixing"]["math:test"].shape == (1, 4)
    text = page(FULL)
    assert "| sum, cat (1, 1) | **50** [0, 100]" in text
    assert "| one LoRA on both skills' data (data mixing) | **75** [" in text
    assert "| CAT, 50 | 88 → 50 (aim 93: **missed**) | 66 → not measured" in text
    assert "shipped adapters" in text
    assert "| CAT, own data | 100 / 100 |" in readme_table(FULL)


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((5, 1, 9), "holds"),
        ((-5, -9, -1), "does not hold"),
        ((1, -1, 3), "not separated"),
        ((0, 0, 0), "not separated"),
    ],
)
def test_a_verdict_follows_its_interval(interval: tuple[float, float, float], said: str) -> None:
    assert said in verdict(Interval(*interval))


def test_claims_are_judged_on_paired_items() -> None:
    lines = [line for line in page(FULL).splitlines() if line.startswith("| CAT beats TIES")]
    assert lines == [
        "| CAT beats TIES (own data) | LoRA Soups | MATH + SHOUT, composition | +100.0 [+100.0, +100.0] | 3 | holds |"
    ]
    (mixing,) = [line for line in page(FULL).splitlines() if line.startswith("| CAT beats data mixing")]
    assert "+25.0 [" in mixing  # one seed of four items, one of them only CAT's


def test_a_part_with_adapters_of_its_own_seed_replaces_the_other() -> None:
    shipped, own, first = part("fixed", 1, {"sum": "0"}), part("fixed", 1, {"sum": "1"}, 1), part("fixed", 0, {})
    assert newest([own, shipped, first]) == newest([shipped, own, first]) == [own, first]


def test_a_partial_run_replaces_its_own_parts_and_leaves_the_rest_of_the_record() -> None:
    record = read_results()
    old = next(part for part in record["parts"] if part["experiment"] == "fixed")
    again = {**old, "rows": {"sum": {}}}
    about = {"torch": "9.9", "device": "cpu", **asdict(Size())}
    after = merged(record, [again], about)
    assert len(after["parts"]) == len(record["parts"])
    assert [part for part in after["parts"] if part not in record["parts"]] == [again]
    assert "9.9" in after["about"]["torch"]
    assert merged(record, [], about)["about"] == record["about"]


def test_figures_of_other_sample_sizes_are_not_mixed() -> None:
    about = {"torch": "9.9", "device": "cpu", **asdict(Size()), "examples": 1}
    with pytest.raises(ValueError, match="another examples"):
        merged(read_results(), [], about)
