"""What the room Route says of a router, from plain data: figures, plots, who answers what, and the collapse."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from studio.core.errors import LoomError
from studio.routing.ess import Collapse, bound_probability
from studio.routing.kinds import RouterKind
from studio.routing.measures import Measures
from studio.routing.text import Judged
from studio.ui.shell import markup, plots

History = Sequence[tuple[int, Measures]]


def figures(found: Measures, k: int) -> str:
    """The figures of a router, each with a hint."""
    tiles = [
        ("ESS", f"{found.support:.2f}", f"effective support: adapters that really take part in a decision; k is {k}"),
        ("ESS, 10th pct.", f"{found.support_low:.2f}", "a tenth of the decisions have at most this"),
        ("H(q)", f"{found.entropy:.2f}", f"policy entropy in nats: as if undecided among {np.exp(found.entropy):.1f}"),
        ("Largest", f"{found.largest:.0%}", "mean share of the heaviest adapter"),
        ("Load ESS", f"{found.load_support:.2f}", "adapters that are used over all prompts together"),
        ("Loss", f"{found.loss:.3f}", "nats an answer token, on questions held back from training"),
    ]
    if found.found is not None:
        hint = "decisions whose best adapters are those the question asks for"
        tiles.insert(0, ("Right choice", f"{found.found:.0%}", hint))
    return markup.figures(tiles)


def progress(history: History, steps: int, names: int, kind: RouterKind) -> str:
    """ESS and entropy, and right choices and loss, over the steps."""
    support = {"ESS": _curve(history, "support"), "10th percentile": _curve(history, "support_low")}
    entropy = {"H(q)": _curve(history, "entropy")}
    parts = [
        plots.lines("Effective support (ESS)", support, last=steps, most=max(names, 2)),
        plots.lines("Policy entropy H(q), nats", entropy, last=steps, most=float(np.log(names))),
    ]
    if history and history[0][1].found is not None:
        parts.append(plots.lines("Right choice", {"share": _curve(history, "found")}, last=steps, most=1))
    losses = _curve(history, "loss")
    most = max((value for _, value in losses), default=1.0)
    parts.append(plots.lines("Loss, nats an answer token", {"held back": losses}, last=steps, most=most))
    return f"<p class='message line'>{kind.why}</p><div class='plots'>{''.join(parts)}</div>"


def _curve(history: History, name: str) -> list[tuple[float, float]]:
    return [(step, float(getattr(found, name))) for step, found in history]


def shares(found: Measures, names: Sequence[str], tasks: Sequence[str]) -> str:
    """Load, and who answers what."""
    load = plots.bars("Load: share of all prompts", dict(zip(names, found.load, strict=True)))
    who = plots.heat("Who answers what: share of each adapter by task", tasks, names, found.heat)
    return f"<div class='abreast'>{load}{who}</div>"


def comparison(rows: Sequence[tuple[str, Judged | LoomError]]) -> str:
    """Routers beside each other, one a line; one that cannot be is told by its reason."""
    heads = ("exact", "right choice", "ESS", "10th pct.", "H(q)", "load ESS", "loss")
    head = "".join(f"<th scope='col'>{name}</th>" for name in heads)
    body = "".join(f"<tr><th scope='row'>{escape(title)}</th>{_compared(row)}</tr>" for title, row in rows)
    return f"<div class='scroll'><table class='board'><tr><th></th>{head}</tr>{body}</table></div>"


def _compared(row: Judged | LoomError) -> str:
    if isinstance(row, LoomError):
        return f"<td class='refused' colspan='7'>{escape(str(row))}</td>"
    found = row.measures
    right = "–" if found.found is None else f"{found.found:.0%}"
    cells = [f"{row.right.mean():.0%}", right, f"{found.support:.2f}", f"{found.support_low:.2f}"]
    cells += [f"{found.entropy:.2f}", f"{found.load_support:.2f}", f"{found.loss:.3f}"]
    return "".join(f"<td>{cell}</td>" for cell in cells)


def collapse(found: Collapse) -> str:
    """What fresh softmax routers of one logit scale do."""
    below, bound = found.share_below(2), bound_probability(found.norm, n=found.n)
    counts, edges = np.histogram(found.support, bins=28, range=(1, found.n))
    title = f"ESS of {len(found.support):,} fresh softmax routers over {found.n} adapters"
    says = f"at least {bound:.1%}" if bound else "nothing at this scale"
    tiles = [
        ("At most 2 matter", f"{below:.1%}", "share of simulated routers with ESS of at most 2"),
        ("Mean ESS", f"{found.mean:.2f}", f"1 is a single adapter, {found.n} an even mix"),
        ("Theorem 1 says", says, "the lower bound on the first figure, as the paper prints it"),
    ]
    note = (
        "No training happened: P is random, and the size of its scores alone decides. At scale 32 the paper quotes "
        "84.2 %; the bound it prints gives 67.5 %, the simulation 99.2 %. ReMix has ESS k at any scale."
    )
    return (
        markup.figures(tiles) + plots.histogram(title, counts.tolist(), edges.tolist()) + markup.message(note, "line")
    )
