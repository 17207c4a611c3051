"""The docs hold together as a site, which is seen without MkDocs: places of pages, links, names of the reference."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

import studio
from tools.docs_site import OUTSIDE, require_own, rewritten, site_place

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
PAGES = {path.relative_to(ROOT / "docs").as_posix(): path for path in sorted((ROOT / "docs").rglob("*.md"))}
PAGES |= {place: ROOT / source for source, place in OUTSIDE.items()}
READ_IN_THE_REPOSITORY = [ROOT / "README.md", *PAGES.values()]
API = {place: path for place, path in PAGES.items() if place.startswith("reference/api/")}


def prose(path: Path) -> str:
    """A page without its blocks and spans of code."""
    text = re.sub(r"^(```+).*?^\1", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def links(text: str) -> list[str]:
    """The targets of a page's links and pictures that lie in the repository."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


def anchors(path: Path) -> set[str]:
    """What the headings of a page are called in links."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


def nav(entry: Any) -> Iterator[str]:
    """The pages of the navigation, in order."""
    if isinstance(entry, str):
        yield entry
    for part in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from nav(part)


def test_every_page_stands_once_in_the_navigation() -> None:
    listed = list(nav(CONFIG["nav"]))
    assert sorted(listed) == sorted(PAGES), "each page has one line under `nav` in mkdocs.yml"


@pytest.mark.parametrize("path", READ_IN_THE_REPOSITORY, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    for link in links(prose(path)):
        target, _, heading = link.partition("#")
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), link
        assert not heading or heading in anchors(there), link


@pytest.mark.parametrize("place", PAGES)
def test_every_link_leads_to_a_page_on_the_site(place: str) -> None:
    for link in links(rewritten(prose(PAGES[place]), place)):
        target = posixpath.normpath(
            posixpath.join(posixpath.dirname(place), link.partition("#")[0] or Path(place).name)
        )
        assert target in PAGES or (ROOT / "docs" / target).is_file(), link


def test_a_card_outside_the_docs_is_a_page_of_the_site() -> None:
    assert site_place("assets/text/README.md") == "explanation/card-text.md"
    assert site_place("studio/cli/main.py") is None
    text = "[the card](../../assets/text/README.md#limits) and [methods](../reference/methods.md)"
    assert (
        rewritten(text, "explanation/evidence.md")
        == "[the card](card-text.md#limits) and [methods](../reference/methods.md)"
    )


def test_a_page_fetches_nothing_from_elsewhere() -> None:
    require_own('<script src="assets/a.js"></script><a href="https://example.org">there</a>', "index.md")
    with pytest.raises(ValueError, match="would have the reader's browser fetch"):
        require_own("<link rel=stylesheet href=https://example.org/a.css>", "index.md")


@pytest.mark.parametrize("place", API)
def test_every_name_of_the_reference_is_there_and_documented(place: str) -> None:
    for name in re.findall(r"^::: (\S+)", API[place].read_text(encoding="utf-8"), flags=re.MULTILINE):
        home, _, last = name.rpartition(".")
        found = import_module(name) if find_spec(home) and is_module(name) else getattr(import_module(home), last)
        assert found.__doc__, name


def test_the_whole_face_of_the_package_is_in_the_reference() -> None:
    overview = API["reference/api/index.md"].read_text(encoding="utf-8")
    assert [name for name in studio.__all__ if f"[`{name}`](" not in overview] == []


def is_module(name: str) -> bool:
    """Whether this is a module's name, not that of something in one."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
