"""This analogy beside plain LoRAs: none, one fixed mix for every edit, this one cut to a small rank, or an open one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from studio.core.adapter import Adapter
from studio.core.errors import LoomError
from studio.core.late import torch
from studio.session.analogy import AnalogySession, Picture
from studio.session.jobs import Job
from studio.ui.pictures.analogy.format import decibels
from studio.ui.pictures.analogy.models import OnStep
from studio.ui.pictures.analogy.room import AnalogyRoom
from studio.ui.shell.panel import PRIVATE, shows_errors_while
from studio.vision.export import kept, recipe_of

Draw = Callable[[OnStep | None], Picture]
_PATIENCE = 0.4
_MAX_RANK = 64
_NOTE = """What routing buys. *No adapter* is the base alone. *One mix* is the mean of the mixes of many analogies: a
plain LoRA of the same rank that the pictures do not ask anew. Then this analogy, cut to a small plain LoRA and whole.
LoRAs of this model that are open in Compose are drawn after them. One LoRA *trained* for every edit, as long as the
basis, is 2.2 dB behind it on edits seen in training; its 7 MB are not shipped; the docs (evidence on
LoRWeB) tell how to make it and compare."""
_MOST = 4  # of the workspace's


class BaselinesPanel:
    """Draws the same b with the same noise by several adapters."""

    def __init__(self, room: AnalogyRoom) -> None:
        self.room = room

    def build(self) -> None:
        """A rank, a button and a row of pictures."""
        gr.Markdown(_NOTE)
        with gr.Row():
            self.rank = gr.Slider(1, _MAX_RANK, 4, step=1, label="Rank to cut to", elem_id="beside-rank")
            self.draw = gr.Button("Draw them side by side", size="sm", elem_id="draw-beside")
        self.row = gr.Gallery(
            label="The same b and noise", columns=4, height="auto", allow_preview=False, elem_id="beside", buttons=[],
            visible=False,
        )  # fmt: skip

    def wire(self) -> None:
        """Connect the listener."""
        self.draw.click(self.on_draw, [self.room.shared.token, self.rank], self.row, **PRIVATE)

    @shows_errors_while
    def on_draw(self, token: str, rank: float) -> Iterator[Any]:
        """One picture after another."""
        session = self.room.full(token)
        if session.model:
            raise LoomError("Only the embedded model draws these", next="go back to it to compare")
        model, entries = self.room.models.embedded(), self.room.shared.workspace(token).entries
        opened = [entry.adapter for entry in entries if entry.adapter.modules and not model.misfit(entry.adapter)]
        columns = Columns(self.room, session, min(max(int(rank), 1), _MAX_RANK), tuple(opened[:_MOST]))
        found: list[tuple[Picture, str]] = []
        for title, draw in columns.all():
            job = Job(draw)
            while not job.wait(_PATIENCE):
                yield gr.skip()
            picture = job.result()
            found.append((picture, _caption(title, picture, session)))
            yield gr.update(value=[*found], visible=True)


@dataclass(frozen=True, eq=False)
class Columns:
    """The pictures of one comparison, each made when it is asked for."""

    room: AnalogyRoom
    session: AnalogySession
    rank: int
    opened: tuple[Adapter, ...] = ()

    def all(self) -> tuple[tuple[str, Draw], ...]:
        """Titles and what draws them, plainest first."""
        basis = self.room.opened(self.session).basis.basis
        return (
            ("no adapter", self.plain),
            ("one mix", self.fixed),
            (f"rank {self.rank}", self.cut),
            (f"rank {basis.size * basis.rank}", self.whole),
            *((adapter.name, partial(self.one, adapter)) for adapter in self.opened),
        )

    def plain(self, on_step: OnStep | None = None) -> Picture:
        """The base alone."""
        return self._drawn([])

    def fixed(self, on_step: OnStep | None = None) -> Picture:
        """The mean of the mixes of many analogies: a LoRA that the pictures do not route."""
        mean = torch.from_numpy(self.room.models.mapped(on_step).mixes).mean(0)
        return self._drawn([(self.room.models.embedded().lora(mean, self.session.strength), 1.0)])

    def cut(self, on_step: OnStep | None = None) -> Picture:
        """This analogy as the best LoRA of a small rank."""
        opened, mix = self.room.opened(self.session).basis, self.room.mixed(self.session)
        recipe = recipe_of(opened, mix, self.session.strength, rank=self.rank)
        return self._drawn([(kept(opened, recipe, on_step).adapter, 1.0)])

    def whole(self, on_step: OnStep | None = None) -> Picture:
        """This analogy."""
        return self._drawn(
            [(self.room.models.embedded().lora(self.room.mixed(self.session), self.session.strength), 1.0)]
        )

    def one(self, adapter: Adapter, on_step: OnStep | None = None) -> Picture:
        """An adapter of the workspace, as it is."""
        return self._drawn([(adapter, 1.0)])

    def _drawn(self, loras: list[tuple[Adapter, float]]) -> Picture:
        session = self.session
        seen = self.room.blended(session)
        return self.room.models.embedded().draw_loras(seen, loras, steps=session.steps, seed=session.seed)


def _caption(title: str, found: Picture, session: AnalogySession) -> str:
    return title if session.truth is None else f"{title}: {decibels(found, session.truth):.1f} dB"
