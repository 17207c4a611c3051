"""The terms of models that are not the studio's own, shown before one is opened or downloaded.

Known ones are by Hub id; a folder says its own in its card. What is not known is said to be not known: then the person
must look, and accept as for a restricted one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from studio.core.errors import LoomError
from studio.core.files import local_path

_CARD = "README.md"
_MAX_CARD = 1 << 20
_PERMISSIVE = frozenset({"apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc0-1.0", "cc-by-4.0", "openrail"})
# Hub id in lower case -> (licence, what it means). From the models' own pages.
_KNOWN: Mapping[str, tuple[str, str]] = {
    "black-forest-labs/flux.1-kontext-dev": (
        "FLUX.1 [dev] Non-Commercial License",
        "gated: accept it on its Hub page; non-commercial use only",
    ),
    "hilamanor/lorweb": ("NVIDIA License", "research and evaluation only, works derived from it included"),
    "openai/clip-vit-large-patch14": ("not stated on its page", "look there before other than private use"),
    "google/siglip2-base-patch16-224": ("apache-2.0", ""),
}


@dataclass(frozen=True, slots=True)
class Terms:
    """The licence of one model, and what it means for who uses it."""

    source: str
    licence: str
    means: str = ""

    @property
    def is_free(self) -> bool:
        """Whether it is a permissive licence that asks for nothing before use."""
        return self.licence.lower() in _PERMISSIVE

    @property
    def is_restricted(self) -> bool:
        """Whether it is known to be gated, non-commercial, or for research alone."""
        words = f"{self.licence} {self.means}".lower()
        return any(word in words for word in ("non-commercial", "noncommercial", "gated", "research"))

    def __str__(self) -> str:
        return f"{self.source}: {self.licence}" + (f" ({self.means})" if self.means else "")


def terms_of(source: str) -> Terms:
    """The terms of a model by Hub id or folder."""
    known = _KNOWN.get(source.lower())
    if known:
        return Terms(source, *known)
    path = local_path(source)
    folder = path if path.is_dir() else path.parent if path.is_file() else None
    if folder is None:
        return Terms(source, "not known here", f"read https://huggingface.co/{source} first")
    named = _card(folder)
    if named.get("license_name") or named.get("license"):
        return Terms(folder.name, named.get("license_name") or named["license"], named.get("license_link", ""))
    return Terms(folder.name, "not stated in its folder", "the released FLUX.1-Kontext and LoRWeB are restricted")


def require_accepted(sources: list[str], is_accepted: bool, how: str) -> None:
    """Raise `LoomError` where one of the models is not free and its terms were not accepted; `how` says how to."""
    bound = [terms for terms in map(terms_of, sources) if not terms.is_free]
    if bound and not is_accepted:
        raise LoomError("These models have terms of their own", "; ".join(map(str, bound)), how)


def _card(folder: Path) -> dict[str, str]:
    """The plain fields of a model card's front matter."""
    import yaml

    path = folder / _CARD
    if not path.is_file() or path.stat().st_size > _MAX_CARD:
        return {}
    parts = path.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        found = yaml.safe_load(parts[1])
    except (yaml.YAMLError, RecursionError):
        return {}
    return {str(k): v[:200] for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}
