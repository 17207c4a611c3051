"""One person's workspace: the adapters they opened, the recipe they edit, its history, and what was computed from it.

The page holds one workspace for each visitor and never lets two share one. Nothing here knows about the page.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from studio.composing.compose import Composition, compose
from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe, Cancelled, LoomError, MissingFile
from studio.recipes.recipe import Recipe, Source
from studio.recipes.sources import Sources, pinned, renamed_apart
from studio.session import unit_edits
from studio.session.history import History
from studio.session.library import Entry, Library, identity, place_of
from studio.session.results import Results
from studio.session.unit_edits import Factors
from studio.units.pool import Scope, layer_of, natural
from studio.units.table import Units, UnitTable, units_of

MAX_SOURCES = 16  # sliders on the page; the command line takes any number
OnStep = Callable[[int, int, str], None]


class Workspace:
    """The state behind one visitor's page. Every public method is safe to call from several threads.

    `_lock` guards history, selection, snapshots and the two counters; it is held for as long as an edit takes, never
    while a file is read or something is computed. Library and results have locks of their own. Whoever holds `_lock`
    may ask the library and for the kept sources; whoever makes a kept result may take `_lock`, so nobody asks for the
    other results while holding it.
    """

    def __init__(self, folder: Path, is_local: bool = True) -> None:
        self.is_local = is_local
        self.library, self.results = Library(folder, is_local=is_local), Results()
        self.progress = (0, 0)  # modules merged, of how many
        self._folder, self._closed = folder, False
        self._lock = threading.RLock()
        self._history = History()
        self._selection: tuple[int, ...] = ()
        self._snapshots: dict[str, Recipe] = {}
        self._version = self._edits = 0  # of everything on the page; of the recipe alone
        self._exports: tempfile.TemporaryDirectory[str] | None = None

    @property
    def folder(self) -> Path:
        """Where the visitor's own files are; raises `Cancelled` once they are gone."""
        self._require_open()
        return self._folder

    @property
    def exports(self) -> Path:
        """Where downloads are written: a temporary folder, since the page serves files from nowhere else.

        Raises `Cancelled` once it is gone.
        """
        with self._lock:
            self._require_open()
            if self._exports is None:
                self._exports = tempfile.TemporaryDirectory(prefix="loom-export-", ignore_cleanup_errors=True)
            return Path(self._exports.name)

    def close(self) -> None:
        """End what is being computed, let go of all adapters and results, and remove the files."""
        with self._lock:
            self._closed = True
            self.stop()
            exports, self._exports = self._exports, None
        self.library.close()
        self.results.close()
        if exports is not None:
            exports.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _require_open(self) -> None:
        if self._closed:
            raise Cancelled("This session has ended")

    # What is in the workspace ---------------------------------------------------------------------------------------

    @property
    def history(self) -> History:
        """The steps that led here, and those that were undone."""
        return self._history

    @property
    def recipe(self) -> Recipe:
        """The recipe being edited."""
        return self._history.now

    @property
    def version(self) -> int:
        """How often something changed that the page must show anew."""
        return self._version

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
        entries = self.entries
        adapters = tuple(entry.adapter for entry in entries)
        make = partial(Sources, adapters, hashes=tuple(entry.sha256 for entry in entries))
        return self.results.kept("sources", identity(adapters), make)

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
        with self._lock:
            return self._set(label, self.recipe.changed(**fields))

    def look(self, **fields: Any) -> Recipe:
        """Change the view alone: no step in the history, the result is the same."""
        with self._lock:
            recipe = self.recipe.changed(view={**self.recipe.view.model_dump(), **fields})
            self._history = self._history.amended(recipe)
            if fields.keys() & {"form", "scope"}:
                self._selection = ()  # its numbers were those of other units
            return recipe

    def touch(self) -> int:
        """Have the page show everything anew; the new version."""
        with self._lock:
            self._version += 1
            return self._version

    def edit_source(self, index: int, label: str, **fields: Any) -> Recipe:
        """Replace fields of one source."""
        with self._lock:
            sources = list(self.recipe.model_dump()["sources"])
            if not 0 <= index < len(sources):
                raise BadRecipe(f"There is no adapter {index + 1}", f"{len(sources)} are open")
            sources[index] |= fields
            return self.edit(label, sources=sources)

    def add(self, source: Source) -> Entry:
        """Open an adapter and add it; one whose file has changed is opened again, in its place.

        Raises `LoomError` for what cannot be opened or is there already.
        """
        has_changed = self._has_changed(source)
        entry = self.library.open(source)  # not under the lock: a download must not hold up the page
        with self._lock:
            if has_changed:
                return self._opened_again(entry)
            if len(self.recipe.sources) >= MAX_SOURCES:
                raise LoomError(f"The page holds {MAX_SOURCES} adapters", next="remove one, or use the command line")
            if any(entry.sha256 == other.sha256 for other in self.entries):
                raise LoomError(f"{entry.adapter.name} is open already", "its weights are the same file")
            if any(other.weight is not None for other in self.recipe.sources) and entry.source.weight is None:
                whole = entry.source.model_copy(update={"weight": 1.0})  # as it is, beside weights that were set
                entry = replace(entry, source=whole)
            sources = [*self.recipe.model_dump()["sources"], entry.source.model_dump()]
            self._set(f"add {entry.adapter.name}", self.recipe.changed(sources=sources))
            return entry

    def remove(self, index: int) -> None:
        """Take an adapter off the workspace; undo brings it back."""
        with self._lock:
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
        with self._lock:
            self._set(label, recipe.changed(sources=sources))

    def move(self, by: int) -> None:
        """Undo or redo."""
        with self._lock:
            self.go_to(self._history.moved(by).at)

    def go_to(self, step: int) -> None:
        """Bring a step of the history back."""
        with self._lock:
            if 0 <= step < len(self._history.steps):
                self._history = replace(self._history, at=step)
                self._touched()

    def forget_history(self) -> None:
        """Let the history begin with what is in the workspace now."""
        with self._lock:
            self._history = self._history.begun_here()

    # Named versions --------------------------------------------------------------------------------------------------

    @property
    def snapshots(self) -> Mapping[str, Recipe]:
        """The recipes kept under a name, for the visit."""
        with self._lock:
            return dict(self._snapshots)

    def save_snapshot(self, name: str) -> None:
        """Keep the recipe under a name; without one, under a number."""
        with self._lock:
            name = name.strip()[:80] or f"version {len(self._snapshots) + 1}"
            self.keep(name, self.recipe.model_copy(update={"name": name}))

    def keep(self, name: str, recipe: Recipe) -> None:
        """Keep any recipe under a name, in place of what had it."""
        with self._lock:
            self._snapshots[name] = recipe

    # Units -----------------------------------------------------------------------------------------------------------

    @property
    def selection(self) -> tuple[int, ...]:
        """The rows of the units that are picked on the map."""
        return self._selection

    def select(self, ids: Sequence[int]) -> None:
        """Pick units of the map, in place of those picked before."""
        with self._lock:
            self._selection = tuple(ids)

    def units(self, on_step: OnStep | None = None) -> Units:
        """The units of the library in the view's form and scope, kept while those stay the same.

        Reading them can take minutes for many large adapters: a change of what is shown stops it with `Cancelled`.
        """
        with self._lock:
            key, sources, form, scope = self._units_key(), self.sources(), self.recipe.view.form, self.scope()
        step = partial(self._read_step, key, on_step)
        make = partial(units_of, sources.adapters, form=form, scope=scope, on_step=step)
        return self.results.kept("units", key, make)

    def units_at_hand(self) -> Units | None:
        """The units if they have been read already."""
        return self.results.at_hand("units", self._units_key())

    def picture(self) -> str:
        """A name for what the map shows: another one exactly when other units are to be drawn."""
        return f"{hash(self._units_key()):x}"

    def scale_units(self, ids: Sequence[int], factor: float, label: str) -> Recipe:
        """Set the factor of some units of the map (0 mutes, 1 restores)."""
        return self._scale(lambda table: ids, factor, label)

    def keep_only(self, ids: Sequence[int]) -> Recipe:
        """Mute every unit on the map but these."""
        chosen = set(ids)
        others = lambda table: [unit for unit in range(len(table)) if unit not in chosen]  # noqa: E731
        return self._scale(others, 0.0, f"keep {len(chosen)} units")

    def clear_units(self) -> Recipe:
        """Undo every unit edit."""
        with self._lock:
            return self._set("clear unit edits", unit_edits.cleared(self.recipe))

    def factors(self) -> Factors:
        """The factor of every unit on the map (N,), as the recipe has it in the map's form; others are 1."""
        while True:
            units = self.units()
            with self._lock:
                if self.units_at_hand() is units:  # else an edit of the library came between
                    recipe = self.recipe
                    break
        return unit_edits.factors(recipe, units.table)

    def _scale(self, choose: Callable[[UnitTable], Sequence[int]], factor: float, label: str) -> Recipe:
        units = self.units()  # before the lock: reading them may take long
        ids = choose(units.table)
        with self._lock:
            if self.units_at_hand() is not units:
                raise Cancelled("The map shows something else now")
            return self._set(label, unit_edits.scaled(self.recipe, units.table, ids, factor))

    def _units_key(self) -> Hashable:
        with self._lock:
            view = self.recipe.view
            return identity(self.adapters), view.form, view.scope

    def _read_step(self, key: Hashable, on_step: OnStep | None, done: int, total: int) -> None:
        if key != self._units_key():
            raise Cancelled("The map shows something else now")
        if on_step is not None:
            on_step(done, total, "")

    # Results ---------------------------------------------------------------------------------------------------------

    def compose(self, *, on_step: OnStep | None = None) -> Composition:
        """The composition of the recipe in the workspace, computed once for each recipe, however many ask at a time.

        A newer edit, or `stop`, ends a merge under way, which then raises `Cancelled`.
        """
        with self._lock:
            recipe, sources, edits = self.recipe, self.sources(), self._edits
        make = partial(self._composed, recipe, sources, edits, on_step)
        return self.results.kept("composition", (identity(sources.adapters), recipe.digest()), make)

    def stop(self) -> None:
        """End what is being computed or written for the recipe as it is; the next edit starts anew."""
        with self._lock:
            self._version += 1
            self._edits += 1

    def pinned(self) -> Recipe:
        """The recipe with names and content hashes, as an export carries it."""
        with self._lock:
            recipe, entries = self.recipe, self.entries
        filled = [pinned(s, e.adapter, e.sha256) for s, e in zip(recipe.sources, entries, strict=True)]
        return recipe.model_copy(update={"sources": tuple(filled)})

    def _composed(self, recipe: Recipe, sources: Sources, edits: int, on_step: OnStep | None) -> Composition:
        self.progress = (0, 0)
        step = partial(self._compose_step, on_step)
        return compose(recipe, sources, on_step=step, stop=lambda: self._edits != edits)

    def _compose_step(self, on_step: OnStep | None, done: int, total: int, what: str) -> None:
        self.progress = (done, total)
        if on_step is not None:
            on_step(done, total, what)

    # -----------------------------------------------------------------------------------------------------------------

    def _here(self, source: Source) -> Source:
        """A recipe's source, opened from where its content is known to lie, or from where the recipe says."""
        known = self.library.with_content(source.sha256) if source.sha256 else None
        place = {"path": known.path, "hub": known.hub, "revision": known.revision} if known else {}
        try:
            return self.library.open(source.model_copy(update=place)).source
        except MissingFile as error:
            what, next_step = f"The recipe needs {source.title}", "Add it to the library, then open the recipe again"
            raise MissingFile(what, error.what, next_step) from error

    def _has_changed(self, source: Source) -> bool:
        """Whether the workspace holds an adapter from there whose file is no longer what was opened."""
        return any(place_of(entry.source) == place_of(source) and not entry.is_current for entry in self.entries)

    def _opened_again(self, entry: Entry) -> Entry:
        """Have the sources at an entry's place mean its file as it is now, with their weights and names."""
        place, sources = place_of(entry.source), self.recipe.sources
        again = [s.model_copy(update={"sha256": entry.sha256}) if place_of(s) == place else s for s in sources]
        self._set(f"open {entry.adapter.name} again", self.recipe.model_copy(update={"sources": tuple(again)}))
        return entry

    def _set(self, label: str, recipe: Recipe) -> Recipe:
        self._history = self._history.then(label, recipe)
        self._touched()
        return recipe

    def _touched(self) -> None:
        self.stop()
        self._selection = ()
