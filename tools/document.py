"""Write the generated sections of the docs and the picture of the packages: `python -m tools.document`.

A test fails where a page is not up to date.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from studio.core.files import write_atomic
from tools.marks import between, names
from tools.sections import cli, formats, learners, methods, packages, rooms, routers
from tools.street import picture

DOCS = Path(__file__).resolve().parents[1] / "docs"
STREET = DOCS / "images" / "street.svg"
SECTIONS: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        **cli.sections(),
        **formats.sections(),
        **learners.sections(),
        **methods.sections(),
        **packages.sections(),
        **rooms.sections(),
        **routers.sections(),
    }
)


def pages() -> list[Path]:
    """The pages that have generated sections."""
    return [path for path in sorted(DOCS.rglob("*.md")) if SECTIONS.keys() & set(names(path.read_text("utf-8")))]


def filled(page: str) -> str:
    """A page with its generated sections as the registries have them now."""
    for name in names(page):
        if name in SECTIONS:
            page = between(page, name, SECTIONS[name]())
    return page


if __name__ == "__main__":
    for path in pages():
        write_atomic(path, filled(path.read_text("utf-8")).encode())
    write_atomic(STREET, picture().encode())
