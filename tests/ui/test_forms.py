"""Forms: Gradio fills them by the names of the controls, whatever the order of either."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import gradio as gr
import pytest

from studio.ui.shell.forms import submits


@dataclass(frozen=True)
class Wish:
    """Two controls."""

    what: str
    count: float


def on_wish(token: str, form: Wish) -> Iterator[str]:
    yield f"{token}: {form.count:g} {form.what}"


def test_a_form_is_filled_by_name() -> None:
    with gr.Blocks() as demo:
        token, count, what, said = gr.State("me"), gr.Number(3), gr.Textbox("bricks"), gr.Textbox()
        panel = SimpleNamespace(count=count, what=what)
        gr.Button().click(**submits(on_wish, Wish, panel, token), outputs=said)
    (listener,) = demo.fns.values()
    held = {token: None, count: 3, what: "bricks"}  # a state is the server's own
    answer = asyncio.run(demo.process_api(listener, [held[block] for block in listener.inputs]))
    assert answer["data"] == ["me: 3 bricks"]


def test_a_field_without_a_control_is_found_when_the_page_is_built() -> None:
    with gr.Blocks(), pytest.raises(AttributeError, match="count"):
        submits(on_wish, Wish, SimpleNamespace(what=gr.Textbox()), gr.State(""))
