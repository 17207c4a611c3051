"""What the page shows as HTML, from plain data; every name and text from outside is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from studio.composing.report import ModuleReport, Report
from studio.core.adapter import Finding
from studio.formats import Inspection
from studio.session.library import Entry
from studio.ui.shell.plots import PALETTE
from studio.units.pool import module_type_of

_MARK = {"ok": "✓", "warn": "!", "refused": "✕"}
_SAYS = {"ok": "ready", "warn": "usable, read the notes", "refused": "cannot be used"}
_ROWS = 400  # module rows on the page; `merge --json` has them all


def card(entry: Entry) -> str:
    """One adapter of the library: verdict, base, ranks, modules, norm; the rest unfolds."""
    adapter, found = entry.adapter, entry.verdict
    verdict = found.verdict
    says, base = _SAYS[verdict], adapter.base or "base not named"
    ranks = (
        "–".join(str(r) for r in (adapter.ranks[0], adapter.ranks[-1])[: len(adapter.ranks)]) if adapter.ranks else "?"
    )
    strength = "" if found.norm is None else f" · norm {found.norm:.3g}"
    notes = "".join(f"<li class='{f.level}'>{escape(_told(f))}</li>" for f in adapter.findings)
    facts = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in _facts(found).items())
    return (
        f"<div class='card {verdict}'>"
        f"<span class='mark' role='img' aria-label='{says}' title='{says}'>{_MARK[verdict]}</span>"
        f"<div><b>{escape(adapter.name)}</b>"
        f"<small>rank {ranks} · {len(adapter.modules)} modules{strength}<br>{escape(base)}</small>"
        f"<details><summary>{_counted(adapter.findings)}</summary><ul>{notes}</ul><dl>{facts}</dl></details></div></div>"
    )


def _counted(findings: Sequence[Finding]) -> str:
    count = len(findings)
    return "details" if not count else f"{count} note{'s' if count > 1 else ''}, details"


def _facts(found: Inspection) -> dict[str, str]:
    """What the header says, in the words of the field."""
    kinds = sorted({module_type_of(name) for name in found.modules})
    return {
        "format": f"{found.dialect}: {found.evidence}",
        "alpha": _numbers(found.alpha),
        "scaling": f"{_numbers(found.scaling)}, by {found.account.scaling_in_words()}" if found.account else "?",
        "tensors": found.account.tensors_in_words() if found.account else "?",
        "targets": ", ".join(kinds[:12]) + (", …" if len(kinds) > 12 else ""),
        "numbers": found.dtype or "?",
        "size": "?" if found.bytes is None else f"{found.bytes / 1e6:.1f} MB",
    }


def _numbers(value: float | Sequence[float] | None) -> str:
    if value is None:
        return "?"
    return f"{value:g}" if isinstance(value, (int, float)) else ", ".join(f"{number:g}" for number in value)


def refusals(found: Sequence[tuple[str, str]]) -> str:
    """What could not be opened, and why."""
    rows = "".join(f"<li><b>{escape(name)}</b>: {escape(why)}</li>" for name, why in found)
    return f"<div class='refused-list' role='alert'><ul>{rows}</ul></div>" if rows else ""


def figures(tiles: Sequence[tuple[str, str, str]]) -> str:
    """(label, value, hint) as tiles."""
    return f"<dl class='figures'>{''.join(_tile(*tile) for tile in tiles)}</dl>"


def _tile(label: str, value: str, hint: str) -> str:
    return f"<div title='{escape(hint)}'><dt>{label}</dt><dd>{value}</dd></div>"


def report(found: Report) -> str:
    """The figures of a merge, warnings first, then cosines."""
    to_sum = "–" if found.cosine_to_sum is None else f"{found.cosine_to_sum:.4f}"
    tiles = [
        ("Kept energy", f"{found.kept_energy:.2%}", "share of the squared norm that the result's rank holds"),
        (
            "Cosine to sum",
            to_sum,
            "between the result and the exact weighted sum of the deltas; 1 means the same direction",
        ),
        ("Norm", f"{found.norm_before:.3g} → {found.norm_after:.3g}", "of the exact weighted sum, and of the result"),
        ("Rank", str(found.rank), f"{found.parameters:,} parameters in {len(found.modules)} modules"),
        (
            "Time",
            f"{found.seconds * 1000:.0f} ms" if found.seconds < 10 else f"{found.seconds:.0f} s",
            "for this merge",
        ),
    ]
    warnings = "".join(f"<li>{escape(text)}</li>" for text in found.warnings)
    extras = "" if found.extras == "none" else f"<p>Heads, biases and other full tensors: {escape(found.extras)}.</p>"
    return (
        f"{figures(tiles)}<p class='advice'>{escape(found.advice)}</p>"
        f"{f'<ul class=warnings>{warnings}</ul>' if warnings else ''}{extras}"
        f"{cosines([source.name for source in found.sources], found.cosines)}"
    )


def cosines(names: Sequence[str], values: Sequence[Sequence[float]]) -> str:
    """How alike the sources are, as a small table; nothing for one source."""
    if len(names) < 2:
        return ""
    head = "".join(f"<th scope='col' title='{escape(name, quote=True)}'>{escape(_short(name))}</th>" for name in names)
    rows = "".join(
        f"<tr><th scope='row' title='{escape(name, quote=True)}'>{escape(_short(name))}</th>"
        + "".join(f"<td style='--heat:{abs(value):.3f}'>{value:+.2f}</td>" for value in row)
        + "</tr>"
        for name, row in zip(names, values, strict=True)
    )
    return f"<table class='cosines'><caption>Cosines between the deltas</caption><tr><td></td>{head}</tr>{rows}</table>"


def modules(rows: Sequence[ModuleReport]) -> str:
    """The per-module table, the modules of largest change first."""
    chosen = sorted(rows, key=lambda row: -row.norm)[:_ROWS]
    body = "".join(
        f"<tr><th scope='row'>{escape(row.name)}</th><td>{row.rank}</td><td>{row.norm_before:.3g}</td>"
        f"<td>{row.norm:.3g}</td>"
        f"<td>{'–' if row.cosine is None else f'{row.cosine:.3f}'}</td><td>{row.kept:.1%}</td>"
        f"<td>{'–' if row.overlap is None else f'{row.overlap:+.2f}'}</td></tr>"
        for row in chosen
    )
    more = (
        f"<p>The first {_ROWS} of {len(rows)} modules; <code>merge --json</code> prints all.</p>"
        if len(rows) > _ROWS
        else ""
    )
    return (
        "<div class='scroll'><table class='modules'><tr><th scope='col'>module</th><th scope='col'>rank</th>"
        "<th scope='col' title='of the exact weighted sum'>‖sum‖</th>"
        "<th scope='col' title='of the result'>‖result‖</th>"
        "<th scope='col' title='between the two'>cosine</th><th scope='col'>kept</th>"
        f"<th scope='col' title='the largest cosine between two sources'>overlap</th></tr>{body}</table></div>{more}"
    )


@dataclass(frozen=True, slots=True)
class UnitRow:
    """One selected unit: `index` counts from 1, `energy` is its share within its adapter, `factor` its edit."""

    adapter: str
    module: str
    index: int
    energy: float
    factor: float


def units(rows: Sequence[UnitRow], count: int) -> str:
    """The selected units, of most energy first."""
    body = "".join(
        f"<tr><th scope='row'>{escape(row.module)}</th><td>{escape(row.adapter)}</td><td>{row.index}</td>"
        f"<td>{row.energy:.2%}</td><td>{row.factor:g}</td></tr>"
        for row in rows
    )
    more = f"<p>The {len(rows)} of most energy, of {count:,}.</p>" if len(rows) < count else ""
    return (
        "<div class='scroll'><table class='modules'><tr><th scope='col'>module</th><th scope='col'>adapter</th>"
        "<th scope='col' title='its number in the module, strongest first for canonical units'>unit</th>"
        "<th scope='col' title='share within its adapter'>energy</th>"
        f"<th scope='col' title='0 mutes, 1 leaves as it is'>factor</th></tr>{body}</table></div>{more}"
    )


def columns(names: Sequence[str], texts: Sequence[str], perplexity: Mapping[str, float], state: str) -> str:
    """The preview: what base, sources and merge write after the prompt, side by side."""
    cells = "".join(
        f"<article class='{_kind(name, i, len(names))}' style='--own:{PALETTE[(i - 1) % len(PALETTE)]}'>"
        f"<h4>{escape(name)}{_measured(perplexity.get(name))}</h4>"
        f"<p>{escape(text.strip()) or '<span class=prompt>…</span>'}</p></article>"
        for i, (name, text) in enumerate(zip(names, texts, strict=True))
    )
    return f"<div class='columns' aria-live='off'>{cells}</div><p class='state' role='status'>{escape(state)}</p>"


def message(text: str, kind: str = "note") -> str:
    """A sentence in place of something that is not there yet."""
    return f"<p class='message {kind}'>{escape(text)}</p>"


def first_view(title: str, points: Sequence[str], question: str = "", answer: str = "") -> str:
    """What a room shows before its first result: what it is for, what will come, and a question it would ask."""
    listed = "".join(f"<li>{escape(point)}</li>" for point in points)
    asked = f"<pre>{escape(question)}<b>{escape(answer)}</b></pre>" if question else ""
    return f"<div class='first-view'><h4>{escape(title)}</h4><ul>{listed}</ul>{asked}</div>"


def _kind(name: str, index: int, count: int) -> str:
    if index == 0:
        return "base"
    return "merge" if index == count - 1 and name == "merge" else "source"


def _measured(value: float | None) -> str:
    return (
        ""
        if value is None
        else f" <small title='perplexity on the given text; lower reads it better'>ppl {value:.1f}</small>"
    )


def _told(finding: Finding) -> str:
    return f"{finding.module}: {finding.text}" if finding.module else finding.text


def _short(name: str) -> str:
    return name if len(name) <= 12 else f"{name[:11]}…"
