"""The page docs/evidence-routing.md, from the figures of `bench.remix`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "evidence-routing.md"


def page(found: dict[str, Any]) -> str:
    """The page."""
    return ""
