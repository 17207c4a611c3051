"""The table of routers in docs/reference/routing.md."""

from __future__ import annotations

from collections.abc import Callable

from studio.routing.comparison import BASELINES


def table() -> str:
    """Every router that can be trained or judged beside one, as Markdown."""
    rows = ["| router | | mixing weights | trained by |", "| --- | --- | --- | --- |"]
    for one in BASELINES.values():
        formula = one.formula.replace("|", r"\|")
        rows.append(f"| `{one.id}` | {one.title} | {formula} | {one.trained} |")
    return "\n".join(rows)


def sections() -> dict[str, Callable[[], str]]:
    """The part of docs/reference/routing.md that the registry gives."""
    return {"routers": table}
