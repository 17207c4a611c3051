"""What a field of the page holds, brought in or refused in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from studio.core.errors import LoomError

Choice = TypeVar("Choice")


def clamped(value: Any, low: float, high: float) -> float:
    """What a slider from low to high shows of a typed value: the nearest it has; of no number, what is nearest 0."""
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    return min(max(value if is_number else 0, low), high)


def on_slider(low: float, high: float, handler: Callable[[str, float], Any], token: str, value: Any) -> Any:
    """A slider was dragged, or a number typed beside it: the handler gets what the slider shows."""
    return handler(token, clamped(value, low, high))


def number(what: str, value: Any, low: float, high: float) -> float:
    """A field's value as a number; raises `LoomError` for what is none, or out of bounds."""
    if value is None:
        raise LoomError(f"{what}: the field is empty", next=f"give a number between {low:g} and {high:g}")
    if not isinstance(value, (int, float)) or not low <= value <= high:
        raise LoomError(f"{what} cannot be {value!r}", f"it lies between {low:g} and {high:g}", "give such a number")
    return float(value)


def whole(what: str, value: Any, low: int, high: int) -> int:
    """A field's value as a whole number; raises `LoomError` as `number` does."""
    return int(number(what, value, low, high))


def one_of(what: str, value: object, known: Iterable[Choice]) -> Choice:
    """A field's value as one of the choices; raises `LoomError` for what is none."""
    for choice in known:
        if choice == value:
            return choice
    raise LoomError(f"There is no {what} {value!r}", next="choose one of the list")


def text(value: object) -> str:
    """A field's text; of anything else, none."""
    return value if isinstance(value, str) else ""


def texts(value: object) -> list[str]:
    """What a list of choices holds; of anything else, nothing."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
