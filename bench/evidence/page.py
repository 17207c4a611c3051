"""The page on evidence and the README's table, from bench/results/evidence.json alone: nothing is measured here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.evidence import world
from bench.evidence.world import ROOT
from studio.core.files import write_atomic
from studio.evaluation.intervals import Interval, Values, mean_interval, share_interval
from studio.vision.pipeline import EMBEDDED
from tools.marks import between, names
from training.vision.evidence import headline
from training.vision.report import contenders

PAGE, README = ROOT / "docs" / "explanation" / "evidence.md", ROOT / "README.md"
RESULTS = ROOT / "bench" / "results" / "evidence.json"
MARK = "evidence"
EVERY = {pair: pair.upper().replace("+", " + ") for pair in world.EVERY}
PAIRS = {pair: EVERY[pair] for pair in world.PAIRS}
COMPOSITION = ("fixed", "own", "few", "controls", "mixing")
RECYCLED = ("real-relevant", "real-pair", "real-irrelevant", "random-relevant", "random-irrelevant")
TITLES = {
    "base": "base, no adapter",
    "sum": "sum, cat (1, 1)",
    "uniform cat": "uniform cat (½, ½)",
    "linear": "linear, on factors",
    "LEGO": "LEGO, k = 8, raw",
    "data mixing": "one LoRA on both skills' data (data mixing)",
}
OTHERS = {
    "evidence-routing.md": "Mixtures and routing",
    "../reference/routing.md": "Mixtures and routing: the method",
    "evidence-modality.md": "Routing by modality",
    "../reference/modality.md": "Routing by modality: the method",
    "evidence-vision.md": "Visual analogies",
}
"""Pages of evidence that others write."""

RANDOM = "random LoRAs + CAT, 50"
WITHOUT_EXAMPLES = ("uniform cat", "linear", "svd", "TIES", "DARE", "KnOTS", "LEGO", "sum")
"""Rows that learn nothing."""
FROM_OWN = ("RegMean, own data", "CAT, own data")


class Claim(NamedTuple):
    """That one row beats another on an axis (a kind of task), and who said so."""

    text: str
    better: str
    worse: str
    axis: str
    source: str


CLAIMS = (
    Claim("CAT beats data mixing (examples: own data)", "CAT, own data", "data mixing", "composition", "LoRA Soups"),
    Claim("CAT beats the plain sum (own data)", "CAT, own data", "sum", "composition", "LoRA Soups"),
    Claim("CAT beats TIES (own data)", "CAT, own data", "TIES", "composition", "LoRA Soups"),
    Claim("CAT beats DARE (own data)", "CAT, own data", "DARE", "composition", "LoRA Soups"),
    Claim("CAT beats LoraHub, each on its own setting", "CAT, own data", "LoraHub, 50", "composition", "LoRA Soups"),
    Claim("CAT beats uniform averaging", "CAT, own data", "uniform cat", "composition", "LoRA Soups"),
    Claim("CAT on 50 composition examples beats the sum", "CAT, 50", "sum", "composition", "prototype"),
    Claim("CAT on own data keeps the own skills better than the sum", "CAT, own data", "sum", "own", "prototype"),
    Claim("CAT on 50 keeps the own skills as well as the sum", "CAT, 50", "sum", "own", "none: asked here"),
    Claim("CAT on 50 beats a target LoRA on the same 50", "CAT, 50", "target LoRA, 50", "composition", "prototype"),
    Claim("CAT on 50 beats random LoRAs", "CAT, 50", RANDOM, "composition", "none: asked here"),
    Claim("KnOTS beats TIES", "KnOTS", "TIES", "composition", "KnOTS"),
    Claim("LEGO beats averaging", "LEGO", "uniform cat", "composition", "LoRA-LEGO"),
    Claim("LEGO beats task arithmetic (the sum)", "LEGO", "sum", "composition", "LoRA-LEGO"),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """Outcomes by row and task, seeds as rows of an array (seeds, items); `seeds` of each row, in that order."""

    outcomes: Mapping[str, Mapping[str, Values]]
    seeds: Mapping[str, tuple[int, ...]]

    def both(self, row: str, other: str, task: str) -> tuple[Values, Values]:
        """The outcomes of two rows for the seeds that both have."""
        shared = sorted({*self.seeds[row]} & {*self.seeds[other]})
        one, two = (
            self.outcomes[name][task][[self.seeds[name].index(seed) for seed in shared]] for name in (row, other)
        )
        return one, two

    def interval(self, row: str, task: str) -> Interval:
        """Percent right, with its 95 % interval over items and seeds."""
        return share_interval(self.outcomes[row][task])


def found_in(results: Mapping[str, Any], pair: str, experiments: Sequence[str]) -> Found:
    """The outcomes of some experiments on a pair."""
    parts = sorted(
        (part for part in results["parts"] if part["pair"] == pair and part["experiment"] in experiments),
        key=lambda part: (experiments.index(part["experiment"]), part["seed"]),
    )
    gathered: dict[str, dict[str, dict[int, list[float]]]] = {}
    for part in parts:
        for row, tasks in part["rows"].items():
            for task, bits in tasks.items():
                gathered.setdefault(row, {}).setdefault(task, {})[part["seed"]] = [float(bit) for bit in bits]
    outcomes = {
        row: {task: np.array([by_seed[seed] for seed in sorted(by_seed)]) for task, by_seed in tasks.items()}
        for row, tasks in gathered.items()
    }
    seeds = {row: tuple(sorted(next(iter(tasks.values())))) for row, tasks in gathered.items()}
    return Found(outcomes, seeds)


def columns(pair: str) -> dict[str, str]:
    """The tasks of a pair by the head of their column."""
    first, second = pair.split("+")
    return {
        "seen": f"{pair}:test",
        "kept back": f"{pair}:kept",
        f"own: {first}": f"{first}:test",
        f"own: {second}": f"{second}:test",
    }


def table(found: Found, pair: str) -> str:
    """One row a method: percent with its interval at the composition and at each own skill."""
    heads = columns(pair)
    lines = [f"| | {' | '.join(heads)} | seeds |", f"| --- |{' --- |' * (len(heads) + 1)}"]
    for row in found.outcomes:
        cells = [_shown(found.interval(row, task)) for task in heads.values()]
        count = len(found.outcomes[row][heads["seen"]])
        lines.append(f"| {TITLES.get(row, row)} | {' | '.join(cells)} | {count} |")
    return "\n".join(lines)


def _shown(interval: Interval) -> str:
    value, low, high = (round(part) for part in interval)
    return f"**{value}** [{low}, {high}]"


def verdict(difference: Interval) -> str:
    """What an interval of a difference says of the claim that it is above zero."""
    if difference.low > 0:
        return "holds"
    return "**does not hold**: the other is better" if difference.high < 0 else "not separated"


def claims(results: Mapping[str, Any]) -> str:
    """Every claim at every pair: the paired difference in points, and a verdict."""
    lines = ["| claim | said by | on | difference, points | seeds | here |", "| --- | --- | --- | --- | --- | --- |"]
    for claim in CLAIMS:
        for pair, title in EVERY.items():
            found = found_in(results, pair, COMPOSITION)
            if {claim.better, claim.worse} <= set(found.outcomes):
                tasks = list(columns(pair).values())
                gap = _gap(found, claim, tasks[:2] if claim.axis == "composition" else tasks[2:])
                where = f"{title}, {'composition' if claim.axis == 'composition' else 'own skills'}"
                seeds = len({*found.seeds[claim.better]} & {*found.seeds[claim.worse]})
                said = f"{gap.value:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}] | {seeds}"
                lines.append(f"| {claim.text} | {claim.source} | {where} | {said} | {verdict(gap)} |")
    return "\n".join(lines)


def _gap(found: Found, claim: Claim, tasks: Sequence[str]) -> Interval:
    """The paired difference over all items of the tasks."""
    pairs = [found.both(claim.better, claim.worse, task) for task in tasks]
    gaps = [better - worse for better, worse in pairs]
    return mean_interval(np.concatenate(gaps, axis=1)).scaled(100)


# -- the prototype's figures -------------------------------------------------------------------------------------------

PROTOTYPE = {
    "sum": ((77, 32, 16), None),
    "CAT, own data": ((66, 29, 12), None),
    "CAT, 50": ((88, 66, 31), (93, 80, 55)),
    "target LoRA, 50": ((15, 14, 10), None),
}
"""Seen sums, percent, by pair; and what was aimed at (issue 5)."""
BEST_KEPT, AIM_KEPT = 33, 60
"""Kept-back sums of MATH + SHOUT, best merge without composition examples: prototype, aim."""


def prototype(results: Mapping[str, Any]) -> str:
    """Our figures beside the prototype's, and the aims."""
    lines = [f"| seen sums, % | {' | '.join(PAIRS.values())} |", "| --- |" + " --- |" * len(PAIRS)]
    every = {pair: found_in(results, pair, COMPOSITION) for pair in PAIRS}
    for row, (before, aims) in PROTOTYPE.items():
        cells = []
        for place, (pair, found) in enumerate(every.items()):
            if row not in found.outcomes:
                cells.append(f"{before[place]} → not measured")
                continue
            now = round(found.interval(row, f"{pair}:test").value)
            aim = f" (aim {aims[place]}: {'met' if now >= aims[place] else '**missed**'})" if aims else ""
            cells.append(f"{before[place]} → {now}{aim}")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    found = every["math+shout"]
    kept = {
        row: found.interval(row, "math+shout:kept").value
        for row in (*WITHOUT_EXAMPLES, *FROM_OWN)
        if row in found.outcomes
    }
    best = max(kept, key=kept.__getitem__)
    met = "met" if kept[best] >= AIM_KEPT else "**missed**"
    said = f"Kept-back sums of MATH + SHOUT, best merge without composition examples: {BEST_KEPT} → {kept[best]:.0f}"
    return "\n".join(lines) + f"\n\n{said} ({best}; aim {AIM_KEPT}: {met})."


# -- the page ----------------------------------------------------------------------------------------------------------


def page(results: Mapping[str, Any]) -> str:
    """docs/explanation/evidence.md, but for the links at its end."""
    sections = [HEAD.format(**_counts(results)), _seeds(results), "## (a) Compositions of two skills\n\n" + AXES]
    for pair, title in EVERY.items():
        found = found_in(results, pair, COMPOSITION)
        sections.append(f"### {title}\n\n{table(found, pair) if found.outcomes else UNMEASURED}")
    sections += ["### What holds\n\n" + CLAIMED + "\n\n" + claims(results)]
    sections += ["### Against the prototype\n\n" + BEFORE + "\n\n" + prototype(results)]
    for experiment, head, text in ((("lego",), "(b) LEGO over k", LEGO), (RECYCLED, "(c) Adaptive merging", ADAPTIVE)):
        found = found_in(results, "math+shout", experiment)
        shown = table(found, "math+shout") if found.outcomes else UNMEASURED
        sections.append(f"## {head}\n\n{text}\n\n{shown}")
    return "\n\n".join(sections) + "\n"


def more() -> str:
    """Visual analogies in short, and links to the evidence that others wrote."""
    found = read_results(EMBEDDED / "results.json")
    seconds = round(found["fits"]["lorweb-0"]["seconds"])
    shown = ANALOGIES.format(seconds=seconds, contenders=contenders(found), headline=headline(found))
    links = [f"- [{title}]({name})" for name, title in OTHERS.items()]
    return f"\n{shown}\n## More evidence\n\n" + "\n".join(links) + "\n"


def _counts(results: Mapping[str, Any]) -> dict[str, Any]:
    about, parts = results["about"], results["parts"]
    minutes = sum(part["cpu_seconds"] for part in parts) / 60
    return {**about, "minutes": f"{minutes:.0f}", "parts": len(parts)}


def _seeds(results: Mapping[str, Any]) -> str:
    """Which adapters the seeds stand for, said plainly."""
    own = sorted({(part["pair"], part["seed"]) for part in results["parts"] if part["adapters"] == part["seed"] != 0})
    seeds = sorted({part["seed"] for part in results["parts"]})
    text = f"Seeds {', '.join(map(str, seeds))} decide the examples, every draw and every learning run."
    if not own:
        return (
            f"{text}\n**All of them use the shipped adapters**: intervals do not hold the luck of training adapters, "
            "which\n[the card](../../assets/text/README.md) has for the sum; "
            "`python -m bench.evidence.seeds` trains more."
        )
    named = ", ".join(f"{EVERY[pair]} {seed}" for pair, seed in own)
    return f"{text} Adapters of their own training seed: {named}; the others use the shipped ones."


def readme_table(results: Mapping[str, Any]) -> str:
    """The README's few rows: composition seen, and the mean of the own skills."""
    rows = (*WITHOUT_EXAMPLES, *FROM_OWN, "data mixing", "LoraHub, 50", "CAT, 50", "target LoRA, 50", RANDOM)
    shown = {pair: found_in(results, pair, COMPOSITION) for pair in EVERY}
    shown = {pair: found for pair, found in shown.items() if found.outcomes}
    lines = [f"| composition / own skills kept, % | {' | '.join(EVERY[pair] for pair in shown)} |"]
    lines.append("| --- |" + " --- |" * len(shown))
    for row in rows:
        if any(row in found.outcomes for found in shown.values()):
            cells = [_two(found, pair, row) if row in found.outcomes else "" for pair, found in shown.items()]
            lines.append(f"| {TITLES.get(row, row)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _two(found: Found, pair: str, row: str) -> str:
    seen, _, *own = columns(pair).values()
    kept = np.mean([found.interval(row, task).value for task in own])
    return f"{found.interval(row, seen).value:.0f} / {kept:.0f}"


def filled(readme: str, results: Mapping[str, Any]) -> str:
    """The README with its table, between its marks."""
    return between(readme, MARK, readme_table(results))


def write_pages(results: Mapping[str, Any]) -> None:
    """Write docs/explanation/evidence.md, and the table in README.md where its marks are."""
    write_atomic(PAGE, (page(results) + more()).encode())
    readme = README.read_text(encoding="utf-8")
    if MARK in names(readme):
        write_atomic(README, filled(readme, results).encode())


def read_results(path: Path = RESULTS) -> dict[str, Any]:
    """The results file."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


HEAD = """# Evidence

The claims of the papers behind LoRA Loom, tested again on the embedded world, whether they hold or not. Written by
`make evidence` from `bench/results/evidence.json`; no result here is typed by hand.

Exact answers in % of {composition} test questions of the composition (seen: sums or lists of training in questions
never trained on; kept back: those that no adapter ever saw) and of {own} of each own skill, with 95 % bootstrap
intervals over questions and seeds. "50" are {examples} examples of the composition, 40 to learn from and 10 to choose
the step; "own data" are 100 examples of each skill alone. {parts} parts, {minutes} CPU minutes on {device}, one
thread. The adapters of other seeds and of data mixing are trained first, by `python -m bench.evidence.seeds`: an hour
of CPU, 128 s on one H100 with 16 cores (`--jobs 11`). Settings are the studio's defaults, but for AdaMerging: 50
steps at 1e-2, not 500 at 1e-3. A target LoRA has the adapters' rank, 200 steps at 1e-3, the step that validates best;
data mixing is one LoRA by the adapters' own recipe on both skills' data.
Nothing was tuned on these questions, except what [the card](../../assets/text/README.md) of the world tells."""
ANALOGIES = """## Visual analogies: LoRWeB beside single LoRAs

{seconds} s of training for each, PSNR in dB / right-transform accuracy, mean over seeds ± half their distance; from
`assets/vision/results.json`. Sizes, the long runs and what is not known: [Evidence on analogies](evidence-vision.md).

{contenders}

{headline}
"""
UNMEASURED = "**Not measured yet**: `make evidence`."
AXES = """Two axes, because one flatters: how well the merge does what nobody trained, and what it keeps of each
adapter's own skill. The first three pairs were looked at when the world was made; the last three came with two later
adapters, and nothing was changed after they were measured."""
CLAIMED = """Paired differences on the same questions, over both parts of an axis; *holds* means that the interval lies
above zero. One small world with easy skills: a claim that fails here may hold elsewhere, and the other way round."""
BEFORE = """The first prototype's figures (another base, other adapters and questions) → ours; and what was aimed at."""
LEGO = """Clusters of the units of MATH and SHOUT (16 in all); `canonical` units are singular directions, `aligned` ones
have matching signs. LEGO's own rank is 8; k = 16 keeps every unit and only scales."""
ADAPTIVE = """Recycling as its paper does: the 4 adapters that answer the examples best, leaky coefficients
from zero, learned on 50 examples of MATH + SHOUT. The relevant pool is all embedded adapters, the irrelevant one
lacks MATH and SHOUT; "random" redraws every factor with the same spread; "+ target" puts the target LoRA in the pool;
"the pair alone" spares the selection its choice, which no adapter that answers alone can win on a composition."""
