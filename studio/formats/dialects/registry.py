"""What a dialect is: one way of naming an adapter's tensors. Each is declared in its own file of this folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from studio.core.adapter import Adapter
from studio.formats.containers.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one tool, or a family of tools, names the tensors of an adapter.

    `sniff(bundle)` says by which keys it recognises a file, or None. `read(bundle)` gives the adapter or raises
    `Refused`; what it leaves open (`dialect`, `evidence`) is filled in by `studio.formats.detection`.

    `title` says who writes such files and `source` where keys and scaling were read off; `keys`, `scaling` and `names`
    (what the modules' names become) are its row in docs/reference/formats.md, in Markdown. `tested_with` is the owner's
    library that the tests hold the reader to, empty where they hold it to `source`. `several`: a file holds several
    adapters, opened as `path#name`. `also_claimed_by`: the dialects whose `sniff` recognises these files, too, each
    with the reason; they are asked later.
    """

    id: str
    title: str
    source: str
    keys: str
    scaling: str
    names: str
    sniff: Callable[[Bundle], str | None]
    read: Callable[[Bundle], Adapter]
    tested_with: str = ""
    several: bool = False
    also_claimed_by: Mapping[str, str] = field(default_factory=dict)
