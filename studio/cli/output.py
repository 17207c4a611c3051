"""What every verb prints by: one line of trouble, and characters that the terminal may not have."""

from __future__ import annotations

import io
import os
import sys


def fail(text: str, status: int = 1) -> int:
    """Print one line of trouble to stderr; returns the exit status."""
    print(f"loom: {' '.join(text.split())}", file=sys.stderr)
    return status


def hide_bars() -> None:
    """No bars of the libraries where nobody watches them: an error is one line on stderr."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def show_any_character() -> None:
    """A name that the terminal cannot show is escaped, where it would else be a defect."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
