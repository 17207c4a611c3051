"""A registry lists what comes in kinds: each record is declared in a file of its own, and listed once, by its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Protocol, TypeVar


class Record(Protocol):
    """Anything that can be listed by an id."""

    @property
    def id(self) -> str:
        """What recipes, flags and files call it."""


R = TypeVar("R", bound=Record)


def records(package: str, places: Sequence[str], kind: type[R]) -> Mapping[str, R]:
    """The records at these places of a package by id, in this order.

    A place is "file:name", or "file" for a record that is called as its file is, in capitals where it is a constant.
    Raises `TypeError` for a place that holds no such record, `ValueError` for an id listed twice.
    """
    found: dict[str, R] = {}
    for place in places:
        record = _at(package, place)
        if not isinstance(record, kind):
            raise TypeError(f"{package} lists {place!r}, which is not a {kind.__name__}")
        if record.id in found:
            raise ValueError(f"{package} lists {record.id!r} twice")
        found[record.id] = record
    return MappingProxyType(found)


def label(title: str, summary: str) -> str:
    """A record as a choice of a list: its title, and its summary as the half sentence after it."""
    return f"{title}: {summary[0].lower()}{summary[1:].removesuffix('.')}"


def _at(package: str, place: str) -> object:
    file, _, name = place.partition(":")
    module = import_module(f"{package}.{file}")
    return getattr(module, name or file, None) or getattr(module, file.upper(), None)
