"""What a Hub id looks like: `owner/name`, or a bare name of the Hub's first models."""

from __future__ import annotations

import re

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,95}(/[A-Za-z0-9][A-Za-z0-9_.\-]{0,95})?")


def looks_like_id(text: str) -> bool:
    """Whether a text has the form of a Hub id with its owner, owner/name."""
    return "/" in text and hub_id_or_none(text) is not None


def hub_id_or_none(base: str | None) -> str | None:
    """The base's name if it looks like a Hub id; a path of somebody's machine says nothing to anybody else."""
    return base if base and _HUB_ID.fullmatch(base) and ".." not in base and "--" not in base else None
