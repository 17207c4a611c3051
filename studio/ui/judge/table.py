"""The scoreboard as a visitor reads it: a table beside the base and the sources, and small multiples with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from studio.evaluation.scoreboard import Cell, Row

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_COLOURS: Final[Mapping[str, str]] = MappingProxyType(
    {"base": "#8a8f98", "source": "#0072b2", "control": "#cc79a7", "merge": "#d55e00"}
)
_ACROSS = 3  # panels in a row
_MAX_PANELS = 12


def table(rows: Sequence[Row]) -> str:
    """A row each; under every figure its 95 % interval and the difference to the base, then what it keeps."""
    if not rows:
        return ""
    tasks = list(dict.fromkeys(task for row in rows for task in row.cells))
    sources = list(dict.fromkeys(name for row in rows for name in row.keeps))
    head = "".join(f"<th scope='col'>{escape(task)}</th>" for task in tasks)
    head += "".join(f"<th scope='col'>keeps of {escape(name)}</th>" for name in sources)
    body = "".join(_row(row, tasks, sources) for row in rows)
    return (
        "<div class='scroll'><table class='board'><caption>Figure with its 95 % interval over the items; below, the "
        "difference to the base. Percent right: more is better; perplexity (ppl): less is.</caption>"
        f"<tr><th scope='col'>row</th>{head}</tr>{body}</table></div>"
    )


def _row(row: Row, tasks: Sequence[str], sources: Sequence[str]) -> str:
    name, kind = escape(row.entry.name), row.entry.kind
    head = f"<tr class='{kind}'><th scope='row'>{name}<small>{kind}</small></th>"
    if row.refused:
        return f"{head}<td colspan='{len(tasks) + len(sources)}' class='refused'>{escape(row.refused)}</td></tr>"
    cells = "".join(_cell(row.cells.get(task), is_base=kind == "base") for task in tasks)
    return head + cells + "".join(f"<td>{_share(row.keeps.get(name))}</td>" for name in sources) + "</tr>"


def _cell(cell: Cell | None, *, is_base: bool) -> str:
    if cell is None:
        return "<td></td>"
    unit = "%" if cell.kind == "exact" else " ppl"
    over = "" if is_base else f"<small class='over'>{_over(cell)}</small>"
    figure, low, high = cell.figure
    left = f" title='{cell.left_out} items did not fit the base'" if cell.left_out else ""
    return f"<td{left}><b>{figure:.1f}{unit}</b> <small>{low:.1f} to {high:.1f}</small>{over}</td>"


def _over(cell: Cell) -> str:
    """The paired difference to the base, and whether its interval leaves zero out."""
    value, low, high = cell.over_base
    unit = "points" if cell.kind == "exact" else "nats a token"
    sure = "" if low > 0 or high < 0 else ", not separated"
    return f"{value:+.{0 if cell.kind == 'exact' else 2}f} {unit}{sure}"


def _share(kept: float | None) -> str:
    return "" if kept is None else f"{kept:.0%}"


def multiples(rows: Sequence[Row]) -> Figure:
    """One panel a task, one point a row, bars for the 95 % intervals; the base is a dotted line."""
    from plotly.subplots import make_subplots

    judged = [row for row in rows if row.cells][::-1]  # plotly counts from below
    tasks = list(dict.fromkeys(task for row in judged for task in row.cells))[:_MAX_PANELS]
    titles = [escape(task).replace(":", "<br>") for task in tasks]
    across = 2 if len(tasks) == 4 else min(max(1, len(tasks)), _ACROSS)
    down = -(-max(1, len(tasks)) // across)
    one = 120 + 24 * len(judged)  # pixels of a panel with its title
    gap = {"horizontal_spacing": 0.02, "vertical_spacing": min(80 / (one * down), 0.5)}
    figure = make_subplots(down, across, shared_yaxes=True, subplot_titles=titles, **gap)
    names = _apart([row.entry.name[:40] for row in judged])
    for place, task in enumerate(tasks):
        _panel(figure, (place // across + 1, place % across + 1), task, judged, names)
    figure.update_layout(
        height=one * down,
        margin={"l": 8, "r": 8, "t": 60, "b": 24},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#8a8f98", "size": 11},
        showlegend=False,
        modebar={"remove": ["zoom", "pan", "select", "lasso", "zoomIn", "zoomOut", "autoScale", "resetScale"]},
    )
    figure.update_annotations(font_size=11)
    figure.update_xaxes(gridcolor="rgba(138,143,152,.25)", zeroline=False)
    figure.update_yaxes(automargin=True, type="category", gridcolor="rgba(138,143,152,.15)")
    return figure


def _apart(names: Sequence[str]) -> list[str]:
    """The names, numbered where one comes twice: plotly would draw both on one line."""
    return [f"{name} ({names[:i].count(name) + 1})" if name in names[:i] else name for i, name in enumerate(names)]


def _panel(figure: Any, place: tuple[int, int], task: str, rows: Sequence[Row], names: Sequence[str]) -> None:
    from plotly.graph_objects import Scatter

    down, across = place
    cells = [row.cells[task] for row in rows]
    values = [cell.figure.value for cell in cells]
    figure.add_trace(
        Scatter(
            x=values,
            y=[escape(name) for name in names],
            mode="markers",
            marker={"color": [_COLOURS[row.entry.kind] for row in rows], "size": 9},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [cell.figure.high - cell.figure.value for cell in cells],
                "arrayminus": [cell.figure.value - cell.figure.low for cell in cells],
                "color": "#8a8f98",
                "thickness": 1,
            },
            hovertemplate="%{y}: %{x:.1f}<extra></extra>",
        ),
        row=down,
        col=across,
    )
    base = next((v for row, v in zip(rows, values, strict=True) if row.entry.kind == "base"), None)
    if base is not None:
        figure.add_vline(x=base, line={"dash": "dot", "color": "#8a8f98"}, row=down, col=across)
    if cells and cells[0].kind == "exact":
        figure.update_xaxes(range=[-3, 103], row=down, col=across)
