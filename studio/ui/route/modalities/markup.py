"""What the Modalities room shows as HTML, from plain data; everything from outside is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from studio.routing.modality import MODES, Decision, Rule
from studio.routing.modality_views import ModalityViews, ModuleView, Shared

_LAMPS = (("base alone", None), ("vision", "vision"), ("speech", "speech"))
COLUMNS = {
    "none": "base alone",
    "vision": "vision",
    "speech": "speech",
    "sum": "both: sum",
    "average": "both: average",
    "ties": "both: TIES",
    "rule": "the rule",
}


def lamps(decision: Decision) -> str:
    """Which adapter lights up, and why."""
    lit = [
        f"<span class='lamp{' lit' if decision.adapter == adapter else ''}'>{name}</span>" for name, adapter in _LAMPS
    ]
    if decision.adapter not in {adapter for _, adapter in _LAMPS}:
        lit = [f"<span class='lamp lit'>{name}</span>" for name in ("vision", "speech")]
    why = "you forced it" if decision.rule is None else f"rule {decision.rule + 1} fits"
    said = f"{escape(decision.inputs.mode)}: {why}"
    return f"<div class='lamps' role='status'>{''.join(lit)}<small>{said}</small></div>"


def rules(table: Sequence[Rule], decision: Decision | None) -> str:
    """The rules in order, the one that decided marked."""
    rows = "".join(
        f"<tr{' class=lit' if decision is not None and decision.rule == index else ''}><td>{index + 1}</td>"
        f"<td>{escape(rule.said) or 'anything else'}</td><td>{escape(rule.adapter or 'base alone')}</td></tr>"
        for index, rule in enumerate(table)
    )
    head = "<tr><th scope='col'>rule</th><th scope='col'>the input holds</th><th scope='col'>adapter</th></tr>"
    return f"<table class='rules'>{head}{rows}</table>"


def log(lines: Sequence[str]) -> str:
    """The decisions so far, newest first."""
    if not lines:
        return "<p class='message'>Every question that you ask is written down here.</p>"
    return f"<ol class='decisions' reversed>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ol>"


def answer(question: str, said: str) -> str:
    """What was said."""
    shown = escape(said.strip()) or "<i>nothing</i>"
    return f"<div class='said' aria-live='polite'><small>{escape(question)}</small><p>{shown}</p></div>"


def every_way(said: Mapping[str, str], chosen: str) -> str:
    """The same question, answered under every choice; the rule's is marked."""
    rows = "".join(
        f"<tr{' class=lit' if name == chosen else ''}><th scope='row'>{escape(name)}</th>"
        f"<td>{escape(text.strip()) or '–'}</td></tr>"
        for name, text in said.items()
    )
    return f"<table class='rules'>{rows}</table>"


def matrix(found: Mapping[str, Any]) -> str:
    """The measured matrix: right answers in %, mean of the training seeds, the rule's cell of each row marked."""
    seeds = found["seeds"]
    head = "".join(f"<th scope='col'>{title}</th>" for title in COLUMNS.values())
    rows = []
    for mode in MODES:
        cells = []
        for column in COLUMNS:
            values = [seed["matrix"][mode][column] for seed in seeds]
            cells.append(_share(float(np.mean(values)), "by seed: " + ", ".join(f"{v:.1%}" for v in values)))
        learned = [router["accuracy"][mode] for seed in seeds for router in seed["routers"]]
        cells.append(_share(float(np.mean(learned)), f"from {min(learned):.1%} to {max(learned):.1%}"))
        rows.append(f"<tr><th scope='row'>{mode}</th>{''.join(cells)}</tr>")
    head = f"<tr><td></td>{head}<th scope='col'>ReMix, k = 1</th></tr>"
    count = len(seeds)
    note = (
        f"Exactly right answers in %, {found['examples']} questions a row, mean of {count} training "
        f"seed{'s' if count > 1 else ''}. ReMix learned from losses alone which adapter to ask."
    )
    return (
        f"<div class='scroll'><table class='cosines'>{head}{''.join(rows)}</table></div><p class='message'>{note}</p>"
    )


def _share(value: float, title: str) -> str:
    return f"<td style='--heat:{value:.3f}' title='{escape(title, quote=True)}'>{100 * value:.0f}</td>"


def folder(views: ModalityViews) -> str:
    """Adapters of a folder: totals, heat maps by layer and module, and the table of every module."""
    totals = " · ".join(
        f"{escape(name)} norm {views.norm(i):.3g}, rank {views.rank(i)}" for i, name in enumerate(views.adapters)
    )
    cosines = [
        f"cosine {escape(views.adapters[i])} to {escape(views.adapters[j])} {views.cosine(index):+.3f}"
        for index, (i, j) in enumerate(views.pairs)
    ]
    maps = [heat(f"‖ΔW‖ of {name}", *views.heat(i)) for i, name in enumerate(views.adapters)]
    maps += [_overlap_map(views, index) for index in range(len(views.pairs))]
    return (
        f"<p class='advice'>{' · '.join([totals, *cosines])}</p><div class='heats'>{''.join(maps)}</div>{table(views)}"
    )


def heat(title: str, layers: Sequence[str], kinds: Sequence[str], values: np.ndarray[Any, Any]) -> str:
    """A layer by module map, the largest value darkest; the numbers are in the cells' titles."""
    top = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    head = "".join(f"<th scope='col' title='{escape(kind)}'>{escape(_leaf(kind))}</th>" for kind in kinds)
    rows = "".join(
        f"<tr><th scope='row'>{escape(layer.rpartition('.')[2])}</th>"
        + "".join(_cell(value, top, f"{layer} {kind}") for kind, value in zip(kinds, row, strict=True))
        + "</tr>"
        for layer, row in zip(layers, values, strict=True)
    )
    return f"<table class='heat wide'><caption>{escape(title)}</caption><tr><th>layer</th>{head}</tr>{rows}</table>"


def table(views: ModalityViews) -> str:
    """One row a module: norm, largest unit, rank of 90 % of the energy, effective rank; what the first two share."""
    names = "".join(f"<th scope='colgroup' colspan='4'>{escape(name)}</th>" for name in views.adapters)
    each = (
        "<th>norm</th><th title='norm of the largest unit, a row of A with its column of B'>unit</th>"
        "<th title='directions that hold 90 % of the energy'>90 %</th>"
        "<th title='exp of the entropy of the singular values'>eff. rank</th>"
    )
    pair = (
        "<th>cosine</th><th title='of the output subspaces; two random ones in brackets'>outputs</th>"
        "<th title='of the input subspaces; two random ones in brackets'>inputs</th>"
    )
    head = f"<th scope='col'>module</th>{each * len(views.adapters)}{pair * bool(views.pairs)}"
    body = "".join(_row(view) for view in views.modules)
    return f"<div class='scroll'><table class='modules'><tr><td></td>{names}</tr><tr>{head}</tr>{body}</table></div>"


def _row(view: ModuleView) -> str:
    cells = ""
    for found in view.strengths:
        if found is None:
            cells += "<td>–</td>" * 4
            continue
        values = (f"{found.norm:.3g}", f"{found.unit:.3g}", str(found.energy_rank), f"{found.effective_rank:.1f}")
        cells += "".join(f"<td>{value}</td>" for value in values)
    if view.shared:
        cells += _shared(view.shared[0])
    return f"<tr><th scope='row'>{escape(view.name)}</th>{cells}</tr>"


def _shared(found: Shared | None) -> str:
    if found is None:
        return "<td>–</td>" * 3
    out, inp = found.chance
    return (
        f"<td>{found.cosine:+.3f}</td><td>{found.outputs:.2f} ({out:.2f})</td><td>{found.inputs:.2f} ({inp:.2f})</td>"
    )


def _overlap_map(views: ModalityViews, pair: int) -> str:
    i, j = views.pairs[pair]
    layers, kinds, values = views.heat(i)
    for view in views.modules:
        found = view.shared[pair]
        at = layers.index(view.layer), kinds.index(view.kind)
        values[at] = np.nan if found is None else found.outputs / found.chance[0]
    return heat(f"shared outputs, times chance: {views.adapters[i]}, {views.adapters[j]}", layers, kinds, values)


def _cell(value: float, top: float, title: str) -> str:
    if not np.isfinite(value):
        return "<td title='not adapted'></td>"
    return f"<td style='--heat:{value / (top or 1.0):.3f}' title='{escape(title, quote=True)}: {value:.3g}'></td>"


def _leaf(kind: str) -> str:
    return kind.rpartition(".")[2].removesuffix("_proj")
