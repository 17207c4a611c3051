"""The figures of `bench.remix` in bench/results/remix.json, added to as they are measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.synthetic import machine
from studio.core.files import write_atomic
from studio.routing.measures import Measures

RESULTS = Path(__file__).parent / "results" / "remix.json"


def kept() -> dict[str, Any]:
    """The figures so far."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def keep(**parts: Any) -> None:
    """Add figures to those of other parts."""
    write_atomic(RESULTS, (json.dumps(kept() | {"machine": machine()} | parts, indent=1) + "\n").encode())


def figures(found: Measures) -> dict[str, Any]:
    """What the page says of measures."""
    names = ("loss", "support", "support_low", "entropy", "largest", "load", "load_support", "found")
    return {name: getattr(found, name) for name in names}
