"""docs/explanation/evidence-routing.md, from the figures of `bench.remix`; every number on it is one of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.remix_text_page import rates_part, text_part
from bench.remix_toy_page import toy_part

PAGE = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "evidence-routing.md"


def page(found: Mapping[str, Any]) -> str:
    """The page, with the parts that have been measured."""
    parts = [HEAD.format(**found["machine"])]
    parts += [text_part(found["text"], found.get("rates", {}))] if "text" in found else []
    parts += [rates_part(found["rates"])] if "rates" in found else []
    parts += [toy_part(found["toy"], found["readings"])] if "toy" in found else []
    parts += [collapse_part(found["collapse"])] if "collapse" in found else []
    return "\n".join(parts)


HEAD = """# Routing, measured

What the routers of [Routing](../reference/routing.md) do, by `python -m bench.remix`, which writes this page and
bench/results/remix.json. Measured on a busy processor of {cores} cores with {threads} thread, so work is counted in
passes, not seconds.
"""


# -- collapse ----------------------------------------------------------------------------------------------------------


def collapse_part(found: Mapping[str, Any]) -> str:
    """The simulation beside the bound."""
    lines = [
        "| logit scale σ‖x‖ | ESS ≤ 2, simulated | mean ESS | Theorem 1 as printed: ESS ≤ 2 | ESS ≤ 3 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for norm, row in found.items():
        bounds = [f"≥ {row[key]:.1%}" if row[key] else "nothing" for key in ("bound_2", "bound_3")]
        lines.append(f"| {norm} | {row['at_most_2']:.1%} | {row['mean']:.2f} | {' | '.join(bounds)} |")
    return COLLAPSE.format(table="\n".join(lines))


COLLAPSE = """## The collapse claim

A million fresh softmax routers over 8 adapters at each logit scale. The paper's example, "at least 84.19 %" at scale
32, does not follow from the bound it prints; the simulation is stronger than both.

{table}
"""
