"""One person's workspace: the adapters they opened, the recipe they edit, its history, and what was computed from it.

The page holds one workspace for each visitor and never lets two share one. Nothing here knows about the page.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from studio.composing.compose import Composition, compose
from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe, Cancelled, LoomError, MissingFile
from studio.recipes.recipe import Recipe, Source
from studio.recipes.sources import Sources, pinned, renamed_apart
from studio.session.library import Entry, Library
from studio.units.pool import Scope, layer_of, natural
from studio.units.table import Units, units_of

MAX_SOURCES = 16  # sliders on the page; the command line takes any number
_KEPT_STEPS = 200
Made = TypeVar("Made")
Factors = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class Step:
    """One state in the history, and what led to it in a few words."""

    label: str
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class History:
    """The steps, oldest first, and which of them is in the workspace. Edits of one control in a row are one step."""

    steps: tuple[Step, ...]
    at: int = 0

    @property
    def now(self) -> Recipe:
        """The recipe in the workspace."""
        return self.steps[self.at].recipe

    def then(self, label: str, recipe: Recipe) -> History:
        """The history after an edit; what was undone is forgotten."""
        past = self.steps[: self.at + 1]
        if len(past) > 1 and past[-1].label == label:
            past = past[:-1]
        past = (*past, Step(label, recipe))[-_KEPT_STEPS:]
        return History(past, len(past) - 1)

    def moved(self, by: int) -> History:
        """Undo (-1) or redo (+1), as far as there is anything."""
        return replace(self, at=min(max(self.at + by, 0), len(self.steps) - 1))


@dataclass(eq=False)
class Workspace:
    """The state behind one visitor's page. Every public method is safe to call from several threads."""

    folder: Path
    is_local: bool = True
    history: History = field(default_factory=lambda: History((Step("no adapters", Recipe()),)))
    snapshots: dict[str, Recipe] = field(default_factory=dict)
    selection: tuple[int, ...] = ()
    version: int = 0
    composition: Composition | None = None
    progress: tuple[int, int] = (0, 0)  # modules merged, of how many

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self._reading, self._composing = threading.Lock(), threading.Lock()
        self._edits = 0  # of the recipe; `version` counts changes of the view too
        self.library = Library(self.folder, is_local=self.is_local)
        self._kept: dict[str, tuple[Any, Any]] = {}
        self._exports: tempfile.TemporaryDirectory[str] | None = None

    @property
    def exports(self) -> Path:
        """Where downloads are written: a temporary folder, since the page serves files from nowhere else."""
        with self.lock:
            if self._exports is None:
                self._exports = tempfile.TemporaryDirectory(prefix="loom-export-")
            return Path(self._exports.name)

    # What is in the workspace ---------------------------------------------------------------------------------------

    @property
    def recipe(self) -> Recipe:
        """The recipe being edited."""
        return self.history.now

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The library, in the recipe's order, every adapter under a name of its own."""
        found = self.library.entries(self.recipe.sources)
        adapters = renamed_apart([entry.adapter for entry in found])
        return tuple(replace(entry, adapter=adapter) for entry, adapter in zip(found, adapters, strict=True))

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The opened adapters."""
        return self.sources().adapters

    def sources(self) -> Sources:
        """The opened adapters with their stacked factors, kept while the library stays the same."""
        with self.lock:
            entries = self.entries
            made = lambda: Sources(tuple(e.adapter for e in entries), hashes=tuple(e.sha256 for e in entries))  # noqa: E731
            return self.kept("sources", _contents(entries), made)

    def units(self, on_step: Callable[[int, int, str], None] | None = None) -> Units:
        """The units of the library in the view's form and scope, kept while those stay the same.

        Reading them can take minutes for many large adapters: a change of what is shown stops it with `Cancelled`.
        """
        with self.lock:
            key, sources, form, scope = self._units_key(), self.sources(), self.recipe.view.form, self.scope()
        with self._reading:
            found = self.units_at_hand()
            if found is None:
                step = partial(self._read_step, key, on_step)
                found = units_of(sources.adapters, form=form, scope=scope, on_step=step)
                self._kept["units"] = (key, found)
            return found

    def picture(self) -> str:
        """A name for what the map shows: another one exactly when other units are to be drawn."""
        with self.lock:
            view = self.recipe.view
            return f"{hash((_contents(self.entries), view.form, view.scope)):x}"

    def units_at_hand(self) -> Units | None:
        """The units if they have been read already."""
        held = self._kept.get("units")
        return held[1] if held is not None and held[0] == self._units_key() else None

    def _units_key(self) -> tuple[Any, ...]:
        with self.lock:
            return id(self.sources()), self.recipe.view.form, self.recipe.view.scope

    def _read_step(
        self, key: tuple[Any, ...], on_step: Callable[[int, int, str], None] | None, done: int, total: int
    ) -> None:
        if key != self._units_key():
            raise Cancelled("The map shows something else by now")
        if on_step is not None:
            on_step(done, total, "")

    def scope(self) -> Scope:
        """The view's scope; one that no adapter has any more is everything."""
        view, names = self.recipe.view.scope, self.module_names()
        if view in names:
            return Scope(module=view)
        return Scope(layer=view) if view in {layer_of(name) for name in names} else Scope()

    def module_names(self) -> list[str]:
        """All modules of the library, in natural order."""
        return sorted({name for entry in self.entries for name in entry.adapter.modules}, key=natural)

    def layers(self) -> list[str]:
        """All layers of the library, in natural order."""
        return sorted({layer_of(name) for name in self.module_names()}, key=natural)

    # Editing ---------------------------------------------------------------------------------------------------------

    def edit(self, label: str, **fields: Any) -> Recipe:
        """Replace fields of the recipe; a step in the history. Raises `BadRecipe` and changes nothing."""
        with self.lock:
            return self._set(label, self.recipe.changed(**fields))

    def look(self, **fields: Any) -> Recipe:
        """Change the view alone: no step in the history, the result is the same."""
        with self.lock:
            recipe = self.recipe.changed(view={**self.recipe.view.model_dump(), **fields})
            steps = list(self.history.steps)
            steps[self.history.at] = replace(steps[self.history.at], recipe=recipe)
            self.history = replace(self.history, steps=tuple(steps))
            if fields.keys() & {"form", "scope"}:
                self.selection = ()  # its numbers were those of other units
            return recipe

    def edit_source(self, index: int, label: str, **fields: Any) -> Recipe:
        """Replace fields of one source."""
        with self.lock:
            sources = list(self.recipe.model_dump()["sources"])
            if not 0 <= index < len(sources):
                raise BadRecipe(f"There is no adapter {index + 1}", f"{len(sources)} are open")
            sources[index] |= fields
            return self.edit(label, sources=sources)

    def add(self, source: Source) -> Entry:
        """Open an adapter and add it. Raises `LoomError` for what cannot be opened or is there already."""
        entry = self.library.open(source)  # not under the lock: a download must not hold up the page
        with self.lock:
            if len(self.recipe.sources) >= MAX_SOURCES:
                raise LoomError(f"The page holds {MAX_SOURCES} adapters", next="remove one, or use the command line")
            if any(entry.sha256 and entry.sha256 == other.sha256 for other in self.entries):
                raise LoomError(f"{entry.adapter.name} is open already", "its weights are the same file")
            if any(other.weight is not None for other in self.recipe.sources) and entry.source.weight is None:
                whole = entry.source.model_copy(update={"weight": 1.0})  # as it is, beside weights that were set
                entry = replace(entry, source=whole)
            sources = [*self.recipe.model_dump()["sources"], entry.source.model_dump()]
            self._set(f"add {entry.adapter.name}", self.recipe.changed(sources=sources))
            return entry

    def remove(self, index: int) -> None:
        """Take an adapter off the workspace; undo brings it back."""
        with self.lock:
            sources = list(self.recipe.model_dump()["sources"])
            if 0 <= index < len(sources):
                name = self.entries[index].adapter.name
                del sources[index]
                extras = None if self.recipe.extras == name else self.recipe.extras
                self._set(f"remove {name}", self.recipe.changed(sources=sources, extras=extras))

    def load(self, recipe: Recipe, label: str) -> None:
        """Open every source of a recipe and put it in the workspace whole, or leave the workspace as it was."""
        if len(recipe.sources) > MAX_SOURCES:
            raise LoomError(f"The recipe has {len(recipe.sources)} sources", f"the page holds {MAX_SOURCES}")
        sources = [self._here(source).model_dump() for source in recipe.sources]  # as in `add`, not under the lock
        with self.lock:
            self._set(label, recipe.changed(sources=sources))

    def _here(self, source: Source) -> Source:
        """A recipe's source, opened from where its content is known to lie, or from where the recipe says."""
        known = self.library.with_content(source.sha256) if source.sha256 else None
        place = {"path": known.path, "hub": known.hub, "revision": known.revision} if known else {}
        try:
            return self.library.open(source.model_copy(update=place)).source
        except MissingFile as error:
            what, next_step = f"The recipe needs {source.title}", "Add it to the library, then open the recipe again"
            raise MissingFile(what, error.what, next_step) from error

    def move(self, by: int) -> None:
        """Undo or redo."""
        self.go_to(self.history.moved(by).at)

    def go_to(self, step: int) -> None:
        """Bring a step of the history back."""
        with self.lock:
            if 0 <= step < len(self.history.steps):
                self.history = replace(self.history, at=step)
                self._touched()

    def forget_history(self) -> None:
        """Let the history begin with what is in the workspace now."""
        self.history = History((self.history.steps[self.history.at],))

    def save_snapshot(self, name: str) -> None:
        """Keep the recipe under a name, for the visit."""
        name = name.strip()[:80] or f"version {len(self.snapshots) + 1}"
        self.snapshots[name] = self.recipe.model_copy(update={"name": name})

    # Units -----------------------------------------------------------------------------------------------------------

    def scale_units(self, ids: Sequence[int], factor: float, label: str) -> Recipe:
        """Set the factor of some units of the map (0 mutes, 1 restores)."""
        table = self.units().table  # before the lock: reading them may take long
        with self.lock:
            sources = list(self.recipe.model_dump()["sources"])
            for unit in ids:
                edits = sources[table.adapter[unit]]["units"]
                if edits["scale"] and edits["form"] != table.form:
                    raise LoomError(
                        f"Units of {table.adapters[table.adapter[unit]]} are edited in {edits['form']} form",
                        f"the map shows {table.form} units, which are other ones",
                        f"show {edits['form']} units, or clear the edits first",
                    )
                edits["form"] = table.form
                module = edits["scale"].setdefault(table.places[table.module[unit]].name, {})
                module[int(table.rank[unit])] = factor
            return self.edit(label, sources=[_tidy(source) for source in sources])

    def keep_only(self, ids: Sequence[int]) -> Recipe:
        """Mute every unit on the map but these."""
        chosen = set(ids)
        others = [unit for unit in range(len(self.units().table)) if unit not in chosen]
        return self.scale_units(others, 0.0, f"keep {len(chosen)} units")

    def clear_units(self) -> Recipe:
        """Undo every unit edit."""
        sources = [{**source, "units": {}} for source in self.recipe.model_dump()["sources"]]
        return self.edit("clear unit edits", sources=sources)

    def factors(self) -> Factors:
        """The factor of every unit on the map (N,), as the recipe has it in the map's form; others are 1."""
        table = self.units().table
        found = np.ones(len(table), np.float32)
        owner = table.module.astype(np.int64) * len(table.adapters) + table.adapter  # ascending: the table's order
        for module, place in enumerate(table.places):
            for index, source in enumerate(self.recipe.sources):
                scales = source.units.scale.get(place.name)
                if scales and source.units.form == table.form:
                    first, end = np.searchsorted(owner, module * len(table.adapters) + index + np.arange(2))
                    found[first:end] = [scales.get(int(rank), 1.0) for rank in table.rank[first:end]]
        return found

    # Results ---------------------------------------------------------------------------------------------------------

    def compose(self, *, on_step: Callable[[int, int, str], None] | None = None) -> Composition:
        """The composition of the recipe in the workspace, computed once for each recipe, however many ask at a time.

        A newer edit, or `stop`, ends a merge under way, which then raises `Cancelled`.
        """
        with self.lock:
            recipe, sources, edits = self.recipe, self.sources(), self._edits
        key = (id(sources), recipe.digest())
        with self._composing:
            held = self._kept.get("composition")
            if held is None or held[0] != key:
                self.progress = (0, 0)
                step = partial(self._compose_step, on_step)
                made = compose(recipe, sources, on_step=step, stop=lambda: self._edits != edits)
                held = self._kept["composition"] = (key, made)
        self.composition = held[1]
        return self.composition

    def stop(self) -> None:
        """End what is being computed or written for the recipe as it is; the next edit starts anew."""
        with self.lock:
            self.version += 1
            self._edits += 1

    def _compose_step(self, on_step: Callable[[int, int, str], None] | None, done: int, total: int, what: str) -> None:
        self.progress = (done, total)
        if on_step is not None:
            on_step(done, total, what)

    def pinned(self) -> Recipe:
        """The recipe with names and content hashes, as an export carries it."""
        filled = [pinned(s, e.adapter, e.sha256) for s, e in zip(self.recipe.sources, self.entries, strict=True)]
        return self.recipe.model_copy(update={"sources": tuple(filled)})

    # -----------------------------------------------------------------------------------------------------------------

    def _set(self, label: str, recipe: Recipe) -> Recipe:
        self.history = self.history.then(label, recipe)
        self._touched()
        return recipe

    def _touched(self) -> None:
        self.version += 1
        self._edits += 1
        self.selection = ()

    def kept(self, what: str, key: Any, make: Callable[[], Made]) -> Made:
        """What was made for this key, or make it now; one thing of each kind is kept."""
        held = self._kept.get(what)
        if held is None or held[0] != key:
            held = self._kept[what] = (key, make())
        made: Made = held[1]
        return made


def _contents(entries: Sequence[Entry]) -> tuple[tuple[str, str | None, int], ...]:
    """What tells two libraries apart; the workspace holds every entry it opened, so no identity comes twice."""
    return tuple((entry.adapter.name, entry.sha256, id(entry.adapter.modules)) for entry in entries)


def _tidy(source: Mapping[str, Any]) -> dict[str, Any]:
    """The source without unit factors of 1, which say nothing."""
    scale = {m: {t: f for t, f in units.items() if f != 1.0} for m, units in source["units"]["scale"].items()}
    kept = {module: units for module, units in scale.items() if units}
    return {**source, "units": {"form": source["units"]["form"], "scale": kept} if kept else {}}
