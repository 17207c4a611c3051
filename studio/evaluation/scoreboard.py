"""The scoreboard: merges of one set of adapters at several tasks, each beside the base and every source alone.

A row is never a bare number: it has an interval over the test items, the paired difference to the base, and what it
keeps of each source's score at that source's own task, which is where a merge that composes well may have forgotten.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import Any, Literal

from studio.composing.compose import compose
from studio.core.errors import BadRecipe, Cancelled, CannotMerge
from studio.evaluation.intervals import Interval, mean_interval, ratio_interval
from studio.evaluation.score import Score, Variant, score
from studio.evaluation.tasks import Task
from studio.merging import Value, method_by_id
from studio.recipes.recipe import Recipe, Source, parse
from studio.recipes.sources import Sources
from studio.text.bases import TextBase

Kind = Literal["base", "source", "merge", "control"]
OnStep = Callable[[int, int, str], None]
MAX_ENTRIES = 10_000
COLUMNS = (
    *("row", "kind", "task", "unit", "figure", "low", "high", "over_base", "over_low", "over_high"),
    *("items", "left_out", "keeps", "recipe"),
)
_BATCH = 8  # variants scored by one batch


@dataclass(frozen=True, slots=True)
class Sweep:
    """Every combination of methods, knob values, weights, scales and seeds over one set of sources.

    `knobs` gives values to try; a method takes those it has. Seeds count for methods that draw. None among the weights
    is the method's own default.
    """

    sources: tuple[Source, ...]
    methods: tuple[str, ...] = ("cat",)
    knobs: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    weights: tuple[tuple[float, ...] | None, ...] = (None,)
    scales: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = (0,)

    def recipes(self) -> tuple[Recipe, ...]:
        """One recipe a combination. Raises `BadRecipe` for what no method knows, or too many combinations."""
        known = {name for id in self.methods for name in method_by_id(id).knobs}
        unknown = sorted(set(self.knobs) - known)
        if unknown:
            methods = ", ".join(dict.fromkeys(self.methods))
            theirs = f"knobs of {methods}: {', '.join(sorted(known)) or 'none'}"
            raise BadRecipe(
                f"None of the methods has a knob {unknown[0]!r}", theirs, "choose one of these, or another method"
            )
        found = tuple(itertools.islice(self._combined(), MAX_ENTRIES + 1))
        if len(found) > MAX_ENTRIES:
            raise BadRecipe(f"The sweep has more than {MAX_ENTRIES} combinations", next="try fewer values")
        return found

    def _combined(self) -> Iterator[Recipe]:
        for id, weights, scale in product(self.methods, self.weights, self.scales):
            method = method_by_id(id)
            names = [name for name in self.knobs if name in method.knobs]
            for values, seed in product(
                product(*(self.knobs[name] for name in names)), self.seeds if method.draws else self.seeds[:1]
            ):
                sources = [source.model_dump() for source in self.sources]
                if weights is not None:
                    if len(weights) != len(sources):
                        raise BadRecipe(f"{len(weights)} weights for {len(sources)} adapters", next="give one for each")
                    sources = [{**s, "weight": w, "modules": {}} for s, w in zip(sources, weights, strict=True)]
                knobs = dict(zip(names, values, strict=True))
                yield parse({"sources": sources, "method": id, "knobs": knobs, "scale": scale, "seed": seed})


def read_sweep(
    sources: Sequence[Source],
    methods: Sequence[str],
    *,
    weights: str = "",
    scales: str = "1",
    seeds: str = "0",
    knobs: Mapping[str, str] = MappingProxyType({}),
) -> Sweep:
    """A sweep as people write it: `1,1; 0.5,0.5` for weights (one number counts for all), `1,2` for the others.

    Raises `BadRecipe` for what cannot be read.
    """
    known = {name: knob for id in methods for name, knob in method_by_id(id).knobs.items()}
    values = {
        name: tuple(known[name].parse(part.strip()) if name in known else part for part in text.split(","))
        for name, text in knobs.items()
    }
    lists = [numbers(part) for part in weights.split(";") if part.strip()]
    given: list[tuple[float, ...] | None] = [found * len(sources) if len(found) == 1 else found for found in lists]
    rolls = numbers(seeds)
    if not all(roll.is_integer() for roll in rolls):
        raise BadRecipe(f"{seeds!r} are not seeds", next="write whole numbers, such as 0,1,2")
    return Sweep(
        tuple(sources), tuple(methods), values, tuple(given) or (None,), numbers(scales), tuple(map(int, rolls))
    )


def numbers(text: str) -> tuple[float, ...]:
    """Numbers between commas; raises `BadRecipe`."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadRecipe(f"{text!r} is not a list of numbers", next="write 1,0.5") from None


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """Something to be judged: a recipe, or an adapter that no recipe over the sources gives (a control)."""

    name: str
    kind: Kind
    recipe: Recipe | None = None
    adapter: Variant = None


def entry_of(recipe: Recipe) -> Entry:
    """A recipe as an entry, named after what tells it from its neighbours."""
    weights = ",".join(f"{weight:g}" for weight in recipe.weights)
    learned = "learned" if any(source.modules or source.units.scale for source in recipe.sources) else weights
    knobs = "".join(f" {name}={value}" for name, value in recipe.knobs.items())
    scale = "" if recipe.scale == 1 else f" x{recipe.scale:g}"
    seed = f" seed {recipe.seed}" if recipe.chosen.draws else ""
    return Entry(recipe.name or f"{recipe.method} {learned}{knobs}{scale}{seed}", "merge", recipe)


@dataclass(frozen=True, slots=True)
class Cell:
    """One row at one task: the figure (percent right, or perplexity) with its 95 % interval over `items` items.

    `over_base` is the paired difference to the base, more is better: points, or nats a token saved.
    """

    kind: str
    figure: Interval
    over_base: Interval
    items: int
    left_out: int


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One judged entry. `keeps` is the share of each source's own figure at its own task, by source; 1 is all of it.

    What cannot be merged has no cells, and `refused` says why.
    """

    entry: Entry
    cells: Mapping[str, Cell]
    keeps: Mapping[str, float | None]
    refused: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data; the recipe opens as it is."""
        cells = {
            task: {
                "kind": cell.kind,
                "figure": list(cell.figure),
                "over_base": list(cell.over_base),
                "items": cell.items,
                "left_out": cell.left_out,
            }
            for task, cell in self.cells.items()
        }
        recipe = self.entry.recipe.model_dump(mode="json") if self.entry.recipe else None
        found = {
            "name": self.entry.name,
            "kind": self.entry.kind,
            "recipe": recipe,
            "tasks": cells,
            "keeps": self.keeps,
        }
        return found | ({"refused": self.refused} if self.refused else {})


def judge(
    base: TextBase,
    sources: Sources,
    entries: Sequence[Entry],
    tasks: Sequence[Task],
    *,
    own: Mapping[str, str] | None = None,
    pins: Sequence[Source] = (),
    on_step: OnStep | None = None,
    stop: Callable[[], bool] | None = None,
) -> Iterator[Row]:
    """Rows as they are measured: the base, each source alone at 1, then the entries in their order.

    `own` names the task that is each source's own. `pins` are the recipe's sources, so that a source's row opens as a
    recipe. `on_step(rows done, rows, what)`; `stop()` true ends the stream with what there is. An entry that cannot be
    merged is a row that says so.
    """
    everything = [Entry("base", "base"), *_alone(sources, pins), *entries]
    reference: dict[str, list[Score]] = {task.name: [] for task in tasks}
    own, count = own or {}, 1 + len(sources.adapters)
    if unknown := sorted({*own} - {adapter.name for adapter in sources.adapters} | {*own.values()} - {*reference}):
        raise BadRecipe(f"There is no source or task {unknown[0]!r}", "each source's own task is one of the tasks")
    batches = [everything[:count]] + [everything[i : i + _BATCH] for i in range(count, len(everything), _BATCH)]
    done, say = 0, on_step or _silent
    for batch in batches:
        try:
            say(done, len(everything), f"merging {batch[0].name}" + (" and the next" if len(batch) > 1 else ""))
            made = [_made(entry, sources, stop) for entry in batch]
            variants = [variant for variant, refused in made if not refused]
            measured: dict[str, tuple[Score, ...]] = {}
            for task in tasks:
                say(done, len(everything), f"asking {task.name}")
                measured[task.name] = score(base, task, variants, stop=stop) if variants else ()
        except Cancelled:
            return
        for name, found in measured.items():
            reference[name] += found if done == 0 else ()
        place = 0
        for entry, (_, refused) in zip(batch, made, strict=True):
            done += 1
            say(done, len(everything), entry.name)
            if refused:
                yield Row(entry, {}, {}, refused)
                continue
            yield _row(entry, {name: found[place] for name, found in measured.items()}, reference, sources, own)
            place += 1


def _silent(done: int, total: int, what: str) -> None:
    """The `on_step` of callers that gave none."""


def _alone(sources: Sources, pins: Sequence[Source]) -> list[Entry]:
    recipes: list[Recipe | None] = [
        parse({"sources": [{**pin.model_dump(), "weight": 1.0, "modules": {}, "units": {}}]}) for pin in pins
    ] or [None] * len(sources.adapters)
    return [
        Entry(adapter.name, "source", recipe, adapter)
        for adapter, recipe in zip(sources.adapters, recipes, strict=True)
    ]


def _made(entry: Entry, sources: Sources, stop: Callable[[], bool] | None) -> tuple[Variant, str]:
    """What is scored, or why there is nothing to score."""
    if entry.adapter is not None or entry.recipe is None:
        return entry.adapter, ""
    try:
        return compose(entry.recipe, sources, stop=stop).adapter, ""
    except (BadRecipe, CannotMerge) as error:
        return None, str(error)


def _row(
    entry: Entry,
    found: Mapping[str, Score],
    reference: Mapping[str, Sequence[Score]],
    sources: Sources,
    own: Mapping[str, str],
) -> Row:
    """`reference` has the base's score first, then each source's."""
    cells = {name: _cell(one, reference[name][0]) for name, one in found.items()}
    keeps: dict[str, float | None] = {}
    for place, adapter in enumerate(sources.adapters, start=1):
        if adapter.name in own:
            task = own[adapter.name]
            keeps[adapter.name] = _kept(found[task], reference[task][place])
    return Row(entry, cells, keeps)


def _cell(found: Score, base: Score) -> Cell:
    if found.kind == "exact":
        over = mean_interval(found.right - base.right).scaled(100)
    else:
        over = ratio_interval(base.nats - found.nats, found.tokens)
    return Cell(found.kind, found.interval(), over, len(found.right), found.left_out)


def _kept(found: Score, alone: Score) -> float | None:
    """Share of a source's figure; None where it has none to keep."""
    if found.kind == "perplexity":
        return alone.figure / found.figure
    return found.figure / alone.figure if alone.figure else None


@dataclass(frozen=True, slots=True, eq=False)
class Board:
    """The rows of one judging, for files."""

    rows: tuple[Row, ...]

    def to_json(self) -> str:
        """Everything, the recipes included."""
        return json.dumps([row.to_json() for row in self.rows], indent=1, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """One line a row and task; text that a spreadsheet would take for a formula is quoted by an apostrophe."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in self.rows:
            recipe = json.dumps(row.entry.recipe.model_dump(mode="json")) if row.entry.recipe else ""
            for task, cell in row.cells.items():
                plain = [_plain(row.entry.name), row.entry.kind, _plain(task), cell.kind]
                writer.writerow(
                    [*plain, *cell.figure, *cell.over_base, cell.items, cell.left_out, json.dumps(row.keeps), recipe]
                )
        return text.getvalue()


def _plain(text: str) -> str:
    return f"'{text}" if text[:1] in "=+-@\t\r" else text
