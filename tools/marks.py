"""The part of a page between two marks, which a program writes and nobody else: `<!-- name -->` … `<!-- /name -->`."""

from __future__ import annotations

import re

_OPENING = re.compile(r"^<!-- ([\w :-]+) -->$", re.MULTILINE)


def between(page: str, name: str, body: str) -> str:
    """`page` with `body` between the marks of `name`.

    Raises `ValueError`, and nothing of the page is lost, where one of the two marks is missing, repeated or misplaced.
    """
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    if page.count(opening) != 1 or page.count(closing) != 1 or page.index(opening) > page.index(closing):
        raise ValueError(f"the page should have {opening} and, below it, {closing}, once each")
    before, _, rest = page.partition(opening)
    _, _, after = rest.partition(closing)
    return f"{before}{opening}\n\n{body.strip()}\n\n{closing}{after}"


def names(page: str) -> list[str]:
    """The names of the parts that a page has."""
    return _OPENING.findall(page)
