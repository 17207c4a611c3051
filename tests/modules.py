"""The project's own modules as files, for tests of the project as a whole."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]


def module_name(path: Path) -> str:
    """`studio/a/b.py` and `studio/a/b/__init__.py` are both studio.a.b."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for top in ("studio", "training") for path in sorted((ROOT / top).rglob("*.py"))}
"""Every module of the studio and its training by name."""
