"""An adapter opened once: the digest of its file and the verdict on it are taken from what is open already."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from studio.core.adapter import Adapter
from studio.core.errors import MissingFile
from studio.core.hub_ids import looks_like_id
from studio.formats.containers.bundle import Bundle, open_bundle, split_selection
from studio.formats.detection import read_bundle
from studio.formats.inspection import Inspection, judge


@dataclass(frozen=True, eq=False)
class Opened:
    """An open adapter, the place it was opened from, the bytes of its weights, and the SHA-256 that pins them.

    Values stay on disk until they are read; `verdict` reads each of them once, when it is first asked for.
    """

    adapter: Adapter
    place: str | Path
    bytes: int
    sha256: str

    @cached_property
    def verdict(self) -> Inspection:
        """What `inspect` says of the place."""
        return judge(self.adapter, self.place, self.bytes)


def open_once(path: str | Path) -> Opened:
    """Open, hash and keep at hand what a verdict needs; `path`, and what is raised, as for `open_adapter`."""
    try:
        bundle = bundle_at(path)
        adapter = read_bundle(bundle)
        return Opened(adapter, path, bundle.size, _digest(bundle, split_selection(path)[1]))
    except OSError as error:
        raise unreadable(path, error) from error


def open_adapter(path: str | Path) -> Adapter:
    """Open a folder, a zip of one, a single weights file, or (as text) a Hub id `owner/name` that is not a path here.

    `path#name` opens one adapter of a file that holds several; see `embedded_adapters`. Values stay on disk until they
    are read. Raises `MissingFile` where nothing is, `Refused` for what is not a LoRA adapter, `NotAtHand` where the Hub
    cannot be reached.
    """
    try:
        return read_bundle(bundle_at(path))
    except OSError as error:
        raise unreadable(path, error) from error


def bundle_at(path: str | Path) -> Bundle:
    """The files at a path or, as text, of a Hub id; raises `OSError` besides what `open_adapter` does."""
    where, selected = split_selection(path)
    if isinstance(path, str) and looks_like_id(str(where)) and not where.exists():
        from studio.formats.containers.hub import fetch

        where = fetch(f"{where}#{selected}" if selected else str(where))
    return open_bundle(where.expanduser(), selected)


def member_digest(whole: str, selected: str) -> str:
    """The digest of one of several adapters in a file, from the file's own: its own, not the file's."""
    return hashlib.sha256(f"{whole}#{selected}".encode()).hexdigest()


def unreadable(path: str | Path, error: OSError) -> MissingFile:
    """The typed error for a file that the system does not let us read."""
    return MissingFile(f"{path} cannot be read", error.strerror or str(error), "check the path and its permissions")


def _digest(bundle: Bundle, selected: str | None) -> str:
    """SHA-256 of the weights, or of the zip they came in; of one adapter of several, of that and its name.

    A sharded checkpoint's is that of the values taken out of it, by name: its index says nothing of them.
    """
    whole = _of_values(bundle) if bundle.is_sharded else bundle.files[0].sha256()
    return whole if selected is None else member_digest(whole, selected)


def _of_values(bundle: Bundle) -> str:
    found = hashlib.sha256()
    for key, tensor in sorted(bundle.tensors.items()):
        found.update(f"{key} {list(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(np.ascontiguousarray(tensor.read()).data)
    return found.hexdigest()
