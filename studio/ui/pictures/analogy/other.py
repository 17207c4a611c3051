"""Another model: FLUX.1-Kontext with a released basis, opened once its terms are accepted; only by a local studio."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from studio.core.errors import LoomError
from studio.core.files import local_path
from studio.formats.containers.lorweb_file import find_lorweb
from studio.session.analogy import SLIDERS
from studio.session.jobs import Job
from studio.ui.pictures.analogy.models import Opened
from studio.ui.pictures.analogy.room import AnalogyRoom
from studio.ui.pictures.analogy.space import SpacePanel
from studio.ui.shell import markup
from studio.ui.shell.forms import submits
from studio.ui.shell.panel import EDIT, PRIVATE, shows_errors, shows_errors_while
from studio.vision.export import OpenBasis
from studio.vision.kontext import GUIDANCE, SIDE, Prompting
from studio.vision.kontext_open import Offload, Placing, open_kontext
from studio.vision.licences import require_accepted, terms_of
from studio.vision.lorweb_file import encoder_of

_BASE = "black-forest-labs/FLUX.1-Kontext-dev"
_EMBEDDED_STEPS = 12


@dataclass(frozen=True, slots=True)
class KontextForm:
    """The controls of `OtherPanel` by name, as they stand when a model is opened."""

    base: str
    basis: str
    encoder: str
    accept: bool
    offload: Offload
    float8: bool
    prompt: str
    guidance: float
    side: float

    @property
    def placing(self) -> Placing:
        """Where the model's parts are kept."""
        return Placing("", self.offload, bool(self.float8))

    @property
    def prompting(self) -> Prompting:
        """What it is told besides the pictures."""
        return Prompting(self.prompt or "", self.guidance, int(self.side))


class OtherPanel:
    """What to open, its terms, and what it is told besides the pictures."""

    def __init__(self, room: AnalogyRoom) -> None:
        self.room = room

    def build(self) -> None:
        """Fields, terms and buttons."""
        self.note = gr.HTML(
            markup.message(
                "The embedded model draws. FLUX.1-Kontext with a LoRWeB basis can take its place: about 37 GB of "
                "weights, a GPU, and models that have terms of their own.",
                "line",
            ),
            elem_id="other-note",
        )
        with gr.Row():
            self.base = gr.Textbox(
                _BASE, label="Base", info="a folder in diffusers' layout, or a Hub id", elem_id="other-base"
            )
            self.basis = gr.Textbox(
                label="Basis", info="a LoRWeB folder or file of this machine", elem_id="other-basis"
            )
        with gr.Row():
            self.offload = gr.Dropdown(
                [("nothing", "none"), ("parts at rest", "model"), ("every layer at rest", "layer")], value="none",
                label="Keep on the CPU", elem_id="other-offload", min_width=110,
            )  # fmt: skip
            self.float8 = gr.Checkbox(
                label="Store in eight bits", info="halves the transformer", elem_id="other-float8"
            )
            self.encoder = gr.Textbox(
                label="Image encoder", info="empty: the one the basis names", elem_id="other-encoder"
            )
        self.terms = gr.HTML(elem_id="other-terms")
        self.accept = gr.Checkbox(label="I have read and accept the terms of these models", elem_id="other-accept")
        with gr.Row():
            self.open = gr.Button("Open it", size="sm", elem_id="other-open")
            self.back = gr.Button("Back to the embedded model", size="sm", elem_id="other-back")
        with gr.Row():
            self.prompt = gr.Textbox(label="The edit in words", lines=1, elem_id="other-prompt")
            self.guidance = gr.Slider(0, 10, GUIDANCE, step=0.1, label="Guidance", elem_id="other-guidance")
            self.side = gr.Slider(128, 1024, SIDE, step=16, label="Pixels of a side", elem_id="other-side")

    def wire(self, steps: gr.Slider, space: SpacePanel) -> None:
        """Connect the listeners; a model brings its own number of steps and adapters."""
        token, version = self.room.shared.token, self.room.version
        self.steps, self.space = steps, space
        named = [token, self.base, self.basis, self.encoder]
        for field in (self.base, self.basis, self.encoder):
            field.blur(self.on_named, named, self.terms, **PRIVATE)
        changed = [self.note, steps, *space.gains, version]
        self.open.click(**submits(self.on_open, KontextForm, self, token), outputs=changed, **PRIVATE)
        self.back.click(self.on_back, [token], changed, **PRIVATE)
        for trigger in (self.prompt.submit, self.guidance.release, self.side.release):
            trigger(self.on_told, [token, self.prompt, self.guidance, self.side], version, **EDIT)

    @shows_errors
    def on_named(self, token: str, base: str, basis: str, encoder: str) -> str:
        """Show the terms of what was named."""
        self._local(token)
        named = [name for name in (base, basis, encoder or _encoder(basis)) if name.strip()]
        items = "".join(f"<li>{escape(str(terms_of(name)))}</li>" for name in named)
        return f"<ul class='terms'>{items}</ul>"

    @shows_errors_while
    def on_open(self, token: str, form: KontextForm) -> Iterator[dict[Any, Any]]:
        """Open the base with the basis in it, for all visitors of this studio."""
        self._local(token)
        base, basis = form.base.strip(), form.basis.strip()
        if not basis:
            raise LoomError("No basis was named", next="give a LoRWeB folder or file")
        file = find_lorweb(local_path(basis))
        router = form.encoder.strip() or encoder_of(file)
        require_accepted([base, str(file), router], form.accept, "read them, then tick the box")
        self.room.change(token, prompting=form.prompting)
        job = Job(partial(_open, base, file, encoder=router, placing=form.placing))
        yield {self.note: markup.message(f"Opening {escape(base)}: a download or a load of many gigabytes…", "busy")}
        while not job.wait(1.0):
            pass
        opened: Opened = job.result()
        key = f"{base}\n{file}"
        self.room.models.keep(key, opened)
        yield self._switched(token, key, f"{opened.title} draws.")

    @shows_errors
    def on_back(self, token: str) -> dict[Any, Any]:
        """Draw with the embedded model again."""
        return self._switched(token, "", "The embedded model draws.")

    @shows_errors
    def on_told(self, token: str, prompt: str, guidance: float, side: float) -> int:
        """Words, guidance or size changed: look again, since the size is the grid's."""
        self.room.change(token, prompting=Prompting(prompt or "", guidance, int(side)))
        session = self.room.session(token)
        return self.room.look(token, session.pictures, session.truth) if session.model else session.version

    def _switched(self, token: str, key: str, said: str) -> dict[Any, Any]:
        """The page for another model: its steps, as many sliders as it has adapters, and b' drawn anew."""
        model = self.room.models.get(key).model
        most = 50 if key else _EMBEDDED_STEPS
        self.room.change(token, model=key, other=None, t=0.0, gains=(1.0,) * SLIDERS, steps=model.usual_steps)
        session = self.room.session(token)
        updates: dict[Any, Any] = {self.note: markup.message(escape(said), "good")}
        version = self.room.look(token, session.pictures, session.truth)
        controls = {self.steps: gr.update(maximum=most, value=model.usual_steps), **self.space.sized(model.basis.size)}
        return updates | controls | {self.room.version: version}

    def _local(self, token: str) -> None:
        """Refuse where the studio is not local: it opens no paths of its machine and downloads nothing of this size."""
        if not self.room.shared.workspace(token).is_local:
            raise LoomError("This studio opens no other models", "it is shared", "run the studio on your own machine")


def _open(base: str, file: Path, on_step: Any, **how: Any) -> Opened:
    model = open_kontext(base, file, **how)
    return Opened(Path(base).name, model, OpenBasis(model.basis, file))


def _encoder(basis: str) -> str:
    """The encoder that a basis names, where there is one to read yet."""
    try:
        return encoder_of(find_lorweb(local_path(basis.strip()))) if basis.strip() else ""
    except LoomError:
        return ""
