"""The part of a page between two marks, which a bench writes and nobody else."""

from __future__ import annotations


def between(text: str, begin: str, end: str, body: str, what: str) -> str:
    """`text` with `body` between the marks; raises `ValueError` where those of `what` are gone."""
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has lost the marks of {what}")
    return f"{before}{begin}{body}{end}{after}"
