"""Text from outside must be Unicode: half of a surrogate pair can be written in JSON and YAML, and in a file's name,
and then be neither saved nor sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from studio.core.errors import Refused


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded, which one with half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def require_unicode(value: object, where: str) -> None:
    """Raise `Refused` where a text in a loaded JSON or YAML value, key or not, is not Unicode."""
    for text in _texts(value):
        if not is_unicode(text):
            raise Refused(
                f"{where} holds text that is not Unicode",
                f"half of a surrogate pair stands in {ascii(text)[:80]}",
                "write the character whole",
            )


def read_json(content: bytes | str, where: str) -> Any:
    """What a JSON text holds; raises `Refused` for what is not JSON, nested too deeply or not Unicode."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        loaded = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{where} is not JSON", str(error), "save it again") from error
    require_unicode(loaded, where)
    return loaded


def _texts(value: object) -> Iterator[str]:
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, Mapping):
            waiting += [*found.keys(), *found.values()]
        elif isinstance(found, list | tuple):
            waiting += found
