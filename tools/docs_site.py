"""The docs as a site, a hook of MkDocs: pages that lie outside docs/, and links as the repository has them.

A link in a page is written so that it works in the repository: `../../assets/text/README.md`. On the site that card is
a page at another place, so the link is rewritten. A link to anything else stays, and the strict build refuses it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE: Mapping[str, str] = MappingProxyType(
    {
        "CHANGELOG.md": "changelog.md",
        "CONTRIBUTING.md": "contributing.md",
        "SECURITY.md": "security.md",
        "assets/mixture/README.md": "explanation/card-mixture.md",
        "assets/text/README.md": "explanation/card-text.md",
        "assets/vision/README.md": "explanation/card-vision.md",
    }
)
"""Pages of the site that lie elsewhere in the repository, and their places on the site."""

_FETCHED = re.compile(r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=[\"']?https?://[^\"'\s>]+")
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=(?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    from mkdocs.structure.files import File

    for source, place in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """The page with its links as the site needs them."""
    return rewritten(markdown, page.file.src_uri)


def on_post_page(output: str, page: Page, **_: object) -> str:
    """The finished page, unless a reader's browser would fetch a part of it from elsewhere."""
    require_own(output, page.file.src_uri)
    return output


def require_own(output: str, place: str) -> None:
    """Raise `ValueError` where a page's scripts, styles or pictures come from another site."""
    if found := _FETCHED.search(output):
        raise ValueError(f"{place} would have the reader's browser fetch {found[0]}")


def rewritten(markdown: str, place: str) -> str:
    """The text of the page at this place of the site, with each link to another page leading to its place there."""
    source = {there: here for here, there in OUTSIDE.items()}.get(place, f"docs/{place}")

    def there(link: re.Match[str]) -> str:
        target = site_place(posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1])))
        return link[1] if target is None else posixpath.relpath(target, posixpath.dirname(place) or ".")

    return _LINK.sub(there, markdown)


def site_place(path: str) -> str | None:
    """Where a file of the repository is on the site; None for one that is not."""
    return path.removeprefix("docs/") if path.startswith("docs/") else OUTSIDE.get(path)
