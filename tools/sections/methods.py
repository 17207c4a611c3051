"""What docs/reference/methods.md says of each merge method's laws and knobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial

from studio.merging import Knob, Laws, Method, methods
from studio.merging.regmean import LAWS as REGMEAN_LAWS

_SPACES = {"factors": "factors only", "delta": "a dense delta, one module at a time"}


def section(method: Method) -> str:
    """A method's facts in Markdown: where it comes from, its laws, its cost, its knobs."""
    laws = [field.name for field in fields(Laws) if getattr(method.laws, field.name)]
    broken = [field.name for field in fields(Laws) if field.name not in laws and field.name != "exact"]
    space = _SPACES[method.space]
    weight = "1/N" if method.default_weight == "mean" else "1"
    most = f" At most {method.max_sources} adapters." if method.max_sources else ""
    most += "" if method.signed else " No negative weights."
    lines = [
        f"{method.summary}",
        "",
        f"Source: {method.source}. Tier: {method.tier}. Works on {space}. A weight starts at {weight}.{most}",
        f"Laws held: {', '.join(laws) or 'none'}. Not held: {', '.join(broken) or 'none'}.",
    ]
    if method.knobs:
        rows = [_row(knob) for knob in method.knobs.values()]
        lines += ["", "| knob | default | values | |", "| --- | --- | --- | --- |", *rows]
    return "\n".join(lines)


def laws_table() -> str:
    """Which method holds which law, as Markdown; `no` stands for one that a test shows to be broken."""
    names = [field.name for field in fields(Laws)]
    rows = [f"| method | {' | '.join(names)} | works on |", f"| --- |{' --- |' * (len(names) + 1)}"]
    for method in methods().values():
        rows.append(_laws_row(f"`{method.id}`", method.laws, names, _SPACES[method.space]))
    return "\n".join([*rows, _laws_row("RegMean", REGMEAN_LAWS, names, "factors and activations")])


def sections() -> dict[str, Callable[[], str]]:
    """The parts of docs/reference/methods.md that the registry gives."""
    return {"laws": laws_table, **{method.id: partial(section, method) for method in methods().values()}}


def _laws_row(name: str, laws: Laws, names: Sequence[str], space: str) -> str:
    cells = ("yes" if getattr(laws, law) else "no" for law in names)
    return f"| {name} | {' | '.join(cells)} | {space} |"


def _row(knob: Knob) -> str:
    default = str(knob.default).lower() if knob.kind == "bool" else str(knob.default)
    return f"| `{knob.name}` | {default} | {_values(knob)} | {knob.help} |"


def _values(knob: Knob) -> str:
    if knob.choices:
        return ", ".join(knob.choices)
    if knob.range is None:
        return "true, false"
    auto = "" if knob.range.auto is None else f", or {knob.range.auto:g}"
    return f"{knob.range.low:g} to {knob.range.high:g}{auto}"
