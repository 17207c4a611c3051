"""Forms: what many controls hold, as one frozen dataclass whose fields are called as the panel's controls are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

import gradio as gr


class Dataclass(Protocol):
    """What every dataclass has."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


Form = TypeVar("Form", bound=Dataclass)


def submits(
    handler: Callable[[str, Form], Iterator[Any]], form: type[Form], panel: object, token: gr.State
) -> dict[str, Any]:
    """How a trigger listens to have `handler` called with the visitor's token and a form, filled by name from a panel.

    `button.click(**submits(self.on_learn, LearnForm, self, token), outputs=…)`. Raises `AttributeError` for a field
    that is called as no control of the panel.
    """
    controls = {field.name: getattr(panel, field.name) for field in fields(form)}
    return {"fn": partial(on_form, handler, form), "inputs": [token], "inputs_kwargs": controls}


def on_form(
    handler: Callable[[str, Form], Iterator[Any]], form: type[Form], token: str, **held: object
) -> Iterator[Any]:
    """A form was sent: what each control holds, by the control's name."""
    yield from handler(token, form(**held))
