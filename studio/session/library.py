"""The adapters that a visitor has opened: each is opened, hashed and judged once, however many ask at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from studio.core.adapter import Adapter
from studio.core.errors import Cancelled
from studio.formats import Inspection
from studio.recipes.recipe import Source
from studio.recipes.sources import named, open_source

_Place = tuple[str | None, str | None, str | None]


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An adapter in the library: where it came from, what it is, the hash of its weights, and the verdict on it."""

    source: Source
    adapter: Adapter
    sha256: str
    verdict: Inspection

    @property
    def is_current(self) -> bool:
        """Whether its files are still what was opened."""
        return all(file.difference() is None for file in self.adapter.files)


class Library:
    """Opened adapters by place. Safe to call from several threads.

    `_lock` guards the two dictionaries and is never held while a file is read; a lock for each place makes those who
    open the same one wait for the first.
    """

    def __init__(self, uploads: Path, *, is_local: bool) -> None:
        self._uploads, self._is_local = uploads, is_local
        self._lock = threading.Lock()
        self._opening: dict[_Place, threading.Lock] = {}
        self._entries: dict[_Place, tuple[Entry, ...]] = {}  # several where a file changed, the oldest first
        self._closed = False

    def open(self, source: Source) -> Entry:
        """The entry of a source, opened now if it is not open yet or its file has changed since.

        The entry's source pins what was opened where another content was opened from there before: a recipe that knew
        that one is still about it. Raises `LoomError` as `open_source` does.
        """
        with self._lock:
            opening = self._opening.setdefault(place_of(source), threading.Lock())
        with opening:
            entry = next((entry for entry in self._all(source) if entry.is_current), None) or self._open(source)
        is_first = entry is next(iter(self._all(source)))
        return _as_named(entry, source if is_first else source.model_copy(update={"sha256": entry.sha256}))

    def entries(self, sources: Sequence[Source]) -> tuple[Entry, ...]:
        """The entries of sources that are open; raises `KeyError` for one that never was."""
        found = [(source, next(iter(self._all(source)), None)) for source in sources]
        missing = [source.title for source, entry in found if entry is None]
        if missing:
            raise KeyError(*missing)
        return tuple(_as_named(entry, source) for source, entry in found if entry is not None)

    def with_content(self, sha256: str) -> Source | None:
        """Where an adapter of this content was opened and still is, if one was."""
        with self._lock:
            every = [entry for entries in self._entries.values() for entry in entries]
        return next((entry.source for entry in every if entry.sha256 == sha256 and entry.is_current), None)

    def close(self) -> None:
        """Let go of every adapter, and open none from now on."""
        with self._lock:
            self._closed = True
            self._entries.clear()

    def _all(self, source: Source) -> tuple[Entry, ...]:
        """The entries that a source may mean, the oldest first: of a pinned one, those of its content."""
        with self._lock:
            if self._closed:
                raise Cancelled("This session has ended")
            entries = self._entries.get(place_of(source), ())
        return tuple(entry for entry in entries if source.sha256 in (None, entry.sha256))

    def _open(self, source: Source) -> Entry:
        opened = open_source(source, uploads=self._uploads, is_local=self._is_local)
        verdict = opened.verdict
        entry = Entry(source, replace(opened.adapter, findings=verdict.findings), opened.sha256, verdict)
        with self._lock:
            if not self._closed:
                # In front of an earlier one of the same content, whose file was only touched.
                held = self._entries.get(place_of(source), ())
                at = next((i for i, earlier in enumerate(held) if earlier.sha256 == entry.sha256), len(held))
                self._entries[place_of(source)] = (*held[:at], entry, *held[at:])
        return entry


def place_of(source: Source) -> _Place:
    """What says where a source lies; its name and its pin do not."""
    return source.path, source.hub, source.revision


def _as_named(entry: Entry, source: Source) -> Entry:
    """The entry for this source, whose name and weights may be others than when it was opened."""
    return replace(entry, source=source, adapter=named(entry.adapter, source))


def identity(adapters: Sequence[Adapter]) -> tuple[tuple[str, int], ...]:
    """What tells two sets of adapters of a library apart; it holds all that it opened, so no number comes twice."""
    return tuple((adapter.name, id(adapter.modules)) for adapter in adapters)
