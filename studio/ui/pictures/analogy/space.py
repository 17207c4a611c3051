"""The space of edits: strength, temperature, every adapter of the basis as a slider, and the way between two edits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import gradio as gr
import numpy as np

from studio.core.errors import LoomError
from studio.session.analogy import SLIDERS, AnalogySession, Picture
from studio.ui.pictures.analogy.format import title
from studio.ui.pictures.analogy.room import AnalogyRoom
from studio.ui.shell.fields import clamped, on_slider, whole
from studio.ui.shell.panel import EDIT, PRIVATE, SLIDE, shows_errors, shows_errors_while
from studio.vision.transforms import TRANSFORMS

_MOST = 3.0
_FRAMES = 5
_MAX_SEED = 1 << 31
_KINDS = {"steps": int, "seed": int, "renormalise": bool}


class SpacePanel:
    """The sliders of the mix."""

    def __init__(self, room: AnalogyRoom) -> None:
        self.room = room

    def build_common(self) -> None:
        """What holds for every adapter."""
        with gr.Row():
            self.strength = gr.Slider(
                0, 2, 1, step=0.05, label="Strength", info="of the whole edit", elem_id="strength"
            )
            self.temperature = gr.Slider(
                0.2, 4, 1, step=0.05, label="Temperature", info="low: few adapters; high: all alike",
                elem_id="mix-temperature",
            )  # fmt: skip

    def build_basis(self) -> None:
        """One slider for each adapter."""
        with gr.Row():
            self.renormalise = gr.Checkbox(
                label="Keep the total", info="what one loses the others gain", elem_id="keep-total"
            )
            self.reset = gr.Button("All back to 1", size="sm", scale=0, min_width=100, elem_id="gains-reset")
        with gr.Row(elem_id="gains"):
            self.gains = [
                gr.Slider(0, _MOST, 1, step=0.05, label=str(i + 1), min_width=90, elem_id=f"gain-{i}")
                for i in range(SLIDERS)
            ]

    def build_between(self) -> None:
        """The other edit, and the way there."""
        gr.Markdown("From this edit to another: mix and example move together, b stays.")
        with gr.Row():
            self.second = gr.Dropdown([], label="The other edit", elem_id="second")
            self.t = gr.Slider(0, 1, 0, step=0.02, label="Part of the way", elem_id="part")
        self.film = gr.Button("Draw the way as a film strip", size="sm", elem_id="draw-film")
        self.strip = gr.Gallery(
            label="The way; a click goes there", columns=_FRAMES, height=150, allow_preview=False, elem_id="film",
            buttons=[],
        )  # fmt: skip

    def sized(self, size: int, gains: Sequence[float] = (1.0,) * SLIDERS) -> dict[Any, Any]:
        """As many sliders as the basis has adapters, at these gains."""
        return {gain: gr.update(value=gains[i], visible=i < size) for i, gain in enumerate(self.gains)}

    @property
    def fields(self) -> list[Any]:
        """What holds for every adapter, and the way between two."""
        return [self.strength, self.temperature, self.renormalise, self.t]

    def shown(self, session: AnalogySession) -> dict[Any, Any]:
        """The controls as a visitor left them."""
        fields = {self.strength: session.strength, self.temperature: session.temperature}
        return {**fields, self.renormalise: session.renormalise, self.t: session.t}

    def choices(self) -> Any:
        """The other edits that can be chosen."""
        return gr.update(choices=[(title(name), name) for name in self.room.models.names])

    def wire(self, steps: gr.Slider, seed: gr.Number, scene: gr.Number) -> None:
        """Connect the listeners, and those of two controls that stand elsewhere."""
        token, version = self.room.shared.token, self.room.version
        for index, gain in enumerate(self.gains):
            gain.input(partial(on_slider, 0, _MOST, partial(self.on_gain, index)), [token, gain], version, **SLIDE)
        fields = {
            "strength": self.strength, "temperature": self.temperature, "renormalise": self.renormalise, "t": self.t,
            "steps": steps, "seed": seed,
        }  # fmt: skip
        for name, control in fields.items():
            edit = partial(self.on_field, name)
            if isinstance(control, gr.Slider):
                bounded = partial(on_slider, control.minimum, control.maximum, edit)
                control.input(bounded, [token, control], version, **SLIDE)
            else:
                control.input(edit, [token, control], version, **EDIT)
        self.reset.click(self.on_reset, [token], [*self.gains, version], **EDIT)
        self.second.input(self.on_second, [token, self.second, scene], version, **EDIT)
        self.film.click(self.on_film, [token], self.strip, **PRIVATE)
        self.strip.select(self.on_frame, [token], [self.t, version], **EDIT)

    @shows_errors
    def on_gain(self, index: int, token: str, value: float) -> int:
        """A slider of the basis moved."""
        gains = list(self.room.session(token).gains)
        gains[index] = clamped(value, 0, _MOST)
        return self.room.change(token, gains=tuple(gains))

    @shows_errors
    def on_field(self, name: str, token: str, value: Any) -> int:
        """Strength, temperature, steps, seed, the total, or the way between two."""
        if name == "seed":
            value = whole("The seed", value, 0, _MAX_SEED)
        return self.room.change(token, **{name: _KINDS.get(name, float)(value)})

    @shows_errors
    def on_reset(self, token: str) -> list[Any]:
        """All gains back to 1."""
        return [*[1.0] * SLIDERS, self.room.change(token, gains=(1.0,) * SLIDERS)]

    @shows_errors
    def on_second(self, token: str, name: str | None, scene: float | None) -> int:
        """The other end of the way: another edit of the same scene, with this b."""
        session = self.room.full(token)
        if not name or name not in TRANSFORMS:
            return session.version
        return self.room.change(token, other=self.room.towards(session, (name,), int(scene or 0)))

    @shows_errors_while
    def on_film(self, token: str) -> Iterator[Any]:
        """The way from one edit to the other, frame by frame."""
        session = self.room.full(token)
        if session.other is None:
            raise LoomError("There is no way yet", next="choose the other edit first")
        frames: list[tuple[Picture, str]] = []
        for t in np.linspace(0, 1, _FRAMES):
            frames.append((self.room.drawing(token, session, t=float(t))(), f"{t:.0%}"))
            yield frames

    @shows_errors
    def on_frame(self, token: str, event: gr.SelectData) -> tuple[float, int]:
        """A frame of the strip was clicked: go there."""
        index = event.index if isinstance(event.index, int) and 0 <= event.index < _FRAMES else 0
        t = index / (_FRAMES - 1)
        return t, self.room.change(token, t=t)
