"""Where `assets/` and `presets/` are: at the top of a checkout, or inside the installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_HOME = _PACKAGE if (_PACKAGE / "assets").is_dir() else _PACKAGE.parent  # a wheel carries them within


def assets(*parts: str) -> Path:
    """A path below `assets/`, the shipped models, adapters and what belongs to them; it need not exist."""
    return _HOME.joinpath("assets", *parts)


def presets() -> Path:
    """The folder of shipped recipes."""
    return _HOME / "presets"
