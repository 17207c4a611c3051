"""The table of learners in docs/reference/learning.md."""

from __future__ import annotations

from collections.abc import Callable

from studio.learning.learners import learners
from studio.learning.registry import Learner


def table() -> str:
    """Every learner with what it makes small and its own settings, as Markdown."""
    rows = ["| learner | what it does | makes small | its own settings | source |", "| --- | --- | --- | --- | --- |"]
    for one in learners().values():
        cells = f"`{one.id}`", one.label, one.objective.replace("|", r"\|"), _settings(one), one.source
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _settings(one: Learner) -> str:
    """Those that differ from learner to learner, where it uses them."""
    settings, schedule = one.settings, one.settings.schedule
    said = {
        "parameterisation": f"`{settings.parameterisation}`",
        "granularity": f"`{settings.granularity}`",
        "start": f"from {settings.theta:g}",
        "rate": f"rate {schedule.rate:g}",
        "steps": f"{schedule.steps} {one.step}s",
        "batch": f"batches of {schedule.batch}",
    }
    return ", ".join(text for name, text in said.items() if name in one.uses)


def sections() -> dict[str, Callable[[], str]]:
    """The part of docs/reference/learning.md that the registry gives."""
    return {"learners": table}
