"""Patterns of module names, matched as PEFT matches them: the keys of rank_pattern and alpha_pattern.

PEFT tries `(.*\\.)?(pattern)$` with `re` in the config's order, then looks the name up as it stands. Its names are
those of the model that it wrapped. Files come from strangers, so a match has a time limit, which `re` does not know.
Source: huggingface/peft, utils/other.py: get_pattern_key.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import regex  # type: ignore[import-untyped]

from studio.core.errors import Refused

_PATTERN_SECONDS = 0.05  # for one pattern on one name
_LITERAL = re.compile(r"[\w.\-]+")
# What `regex` reads otherwise than `re`: a brace that is no count (a fuzzy match), a bracket in a set (a named class).
_OTHERWISE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(?!\d*,?\d*\})", re.DOTALL)
# A wrapped model's path begins with these; wrapping twice (or compiling, sharding) repeats or adds to them.
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:base_model\.model\.|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\."
    r"|module\.(?=base_model\.))"
)
_PEFT_MODEL = re.compile(r"^(?:.*?\.)??base_model\.model\.")


class Match(NamedTuple):
    """The pattern that matched a module, and its number."""

    pattern: str
    value: float


def without_wrappers(path: str) -> str:
    """The base model's own dotted path: wrapper segments removed, however often they repeat."""
    return _WRAPPERS.sub("", path)


def wrapped_names(path: str) -> tuple[str, ...]:
    """The names under which PEFT may have seen the module that a file stores under this path, the likeliest first.

    What stands before the PEFT model came after it. What stands behind (`_orig_mod` of a model compiled first,
    `_fsdp_wrapped_module` of one sharded later) may have been there or not.
    """
    inside = _PEFT_MODEL.sub("", path, count=1)
    own = without_wrappers(path)
    return (inside,) if inside == own else (inside, own)


def first_match(patterns: Mapping[str, float], names: tuple[str, ...], deadline: float = math.inf) -> Match | None:
    """The first pattern that matches the first of these names that any pattern matches.

    Raises `Refused` for a pattern that is not a regular expression or takes too long (catastrophic backtracking);
    `deadline` is the monotonic time for all.
    """
    return next((match for name in names if (match := _first_match(patterns, name, deadline))), None)


def _first_match(patterns: Mapping[str, float], name: str, deadline: float) -> Match | None:
    for pattern, value in patterns.items():
        if time.monotonic() > deadline:
            raise Refused(
                "the config's patterns take too long to match", f"there are {len(patterns)}", "write simpler ones"
            )
        if _matches(pattern, name):
            return Match(pattern, value)
    return Match(name, patterns[name]) if name in patterns else None


def _matches(pattern: str, name: str) -> bool:
    if _LITERAL.fullmatch(pattern) and name.isprintable():
        tail = name[-len(pattern) :]
        start = len(name) - len(pattern)
        on_segment = start == 0 or (start > 0 and name[start - 1] == ".")
        return on_segment and (tail == pattern or all(p in (".", c) for p, c in zip(pattern, tail, strict=True)))
    try:
        return _compiled(pattern).match(name, timeout=_PATTERN_SECONDS) is not None
    except (re.error, regex.error, TimeoutError, RecursionError, MemoryError, OverflowError, ValueError) as error:
        raise Refused(
            f"the config's pattern {pattern[:60]!r} cannot be matched",
            str(error) or type(error).__name__,
            "write a simpler pattern",
        ) from error


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    whole = rf"(.*\.)?({_OTHERWISE.sub(_escaped, pattern)})$"
    re.compile(whole)  # what `re` does not take, PEFT does not
    return regex.compile(whole)


def _escaped(found: re.Match[str]) -> str:
    text = found[0]
    if text.startswith("["):
        return "[" + re.sub(r"(\\.)|\[", lambda part: part[1] or r"\[", text[1:], flags=re.DOTALL)
    return text if text.startswith("\\") else r"\{"
