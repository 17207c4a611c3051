"""The pictures: three slots to fill by upload, brush, the world or the strip of ready analogies, and b'."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr
from PIL import Image

from studio.core.errors import LoomError
from studio.session.analogy import SLIDERS, Picture
from studio.ui.pictures.analogy.format import title
from studio.ui.pictures.analogy.room import AnalogyRoom
from studio.ui.shell import markup
from studio.ui.shell.panel import EDIT, shows_errors
from studio.vision.pictures import on_white
from studio.vision.transforms import TRANSFORMS
from studio.vision.world import UNSEEN, Task, check

_HEIGHT = 172
_MAX_SCENE = 1 << 31


class PicturesPanel:
    """Slots a, a', b; the drawn b' and the right answer; where pictures come from."""

    def __init__(self, room: AnalogyRoom) -> None:
        self.room = room
        self.state = gr.HTML(
            markup.message("The analogy model loads when this page is first opened."), elem_id="analogy-state"
        )
        with gr.Row():
            self.a = _slot("a: before", "slot-a")
            self.a2 = _slot("a′: after", "slot-a2")
        with gr.Row():
            self.b = _slot("b: yours", "slot-b")
            self.b2 = _shown("b′: drawn", "slot-b2", ["download"])
            self.truth = _shown("Right answer, if known", "slot-truth", [])
        self.strip = gr.Gallery(
            label="Ready analogies: pick an edit", columns=9, height=150, allow_preview=False, elem_id="ready",
            object_fit="contain", buttons=[],
        )  # fmt: skip
        with gr.Row():
            self.scene = gr.Number(
                0, label="Scene", info="another number, other pictures", precision=0,
                elem_id="scene",
            )  # fmt: skip
            self.steps = gr.Slider(1, 12, 2, step=1, label="Steps", elem_id="steps-analogy")
            self.seed = gr.Number(0, label="Seed", info="of the noise", precision=0, elem_id="seed-analogy")
        self._build_world()
        self._build_canvas()

    def _build_world(self) -> None:
        caption = "Pick from the world: any edit, also two in a row, and ones never trained on"
        with gr.Accordion(caption, open=False), gr.Row():
            self.first = gr.Dropdown(_choices(), label="Edit", value="invert", elem_id="world-first")
            self.then = gr.Dropdown(
                [("nothing more", ""), *_choices(second=True)], label="Then", value="", elem_id="world-then"
            )
            self.pick = gr.Button("Draw this analogy", size="sm", elem_id="world-pick", min_width=120)

    def _build_canvas(self) -> None:
        with gr.Accordion("Paint a picture", open=False):
            self.canvas = gr.ImageEditor(
                type="pil", height=260, elem_id="canvas", label="Paint", canvas_size=(256, 256)
            )
            with gr.Row():
                self.to_slot = [gr.Button(f"Use as {name}", size="sm") for name in ("a", "a′", "b")]

    @property
    def slots(self) -> list[Any]:
        """The three slots and the right answer."""
        return [self.a, self.a2, self.b, self.truth]

    def wire(self, gains: list[gr.Slider]) -> None:
        """Connect the listeners; a new analogy sets the `gains` back to 1."""
        token, version = self.room.shared.token, self.room.version
        fresh = [*self.slots, *gains, version]
        self.strip.select(self.on_ready, [token, self.scene], fresh, **EDIT)
        self.scene.input(self.on_scene, [token, self.scene], fresh, **EDIT)
        self.pick.click(self.on_world, [token, self.first, self.then, self.scene], fresh, **EDIT)
        for trigger in (self.a.input, self.a2.input, self.b.input):
            trigger(self.on_pictures, [token, self.a, self.a2, self.b], [self.truth, version], **EDIT)
        for index, button in enumerate(self.to_slot):
            slot = (self.a, self.a2, self.b)[index]
            button.click(partial(self.on_painted, index), [token, self.canvas], [slot, self.truth, version], **EDIT)

    @shows_errors
    def on_ready(self, token: str, scene: float | None, event: gr.SelectData) -> list[Any]:
        """A ready analogy was picked."""
        names, index = self.room.models.names, event.index
        if not isinstance(index, int) or not 0 <= index < len(names):
            raise LoomError("There is no such analogy", next="pick one of the strip")
        return self.show(token, (names[index],), scene)

    @shows_errors
    def on_world(self, token: str, first: str, then: str, scene: float | None) -> list[Any]:
        """An edit, or two in a row, of the world."""
        return self.show(token, (first, then) if then else (first,), scene)

    @shows_errors
    def on_scene(self, token: str, scene: float | None) -> Any:
        """Other pictures of the edit that is shown; own pictures stay."""
        task = self.room.session(token).task
        return self.show(token, task, scene) if task else gr.skip()

    @shows_errors
    def on_pictures(self, token: str, a: Any, a2: Any, b: Any) -> tuple[Any, int]:
        """A visitor's own pictures."""
        self.room.change(token, task=())
        pictures = [on_white(picture) if isinstance(picture, Image.Image) else None for picture in (a, a2, b)]
        return None, self.room.look(token, pictures, None)

    @shows_errors
    def on_painted(self, index: int, token: str, painted: Any) -> tuple[Any, Any, int]:
        """The painted picture goes into a slot."""
        picture = painted.get("composite") if isinstance(painted, dict) else None
        if not isinstance(picture, Image.Image):
            raise LoomError("Nothing was painted", next="draw something on the canvas first")
        self.room.change(token, task=())
        pictures: list[Picture | None] = list(self.room.session(token).pictures)
        pictures[index] = on_white(picture)
        return pictures[index], None, self.room.look(token, pictures, None)

    def show(self, token: str, task: Task, scene: float | None) -> list[Any]:
        """Put an analogy of the world into the slots and the gains back to 1."""
        a, a2, b, truth = self.room.ready(check(task), min(max(int(scene or 0), 0), _MAX_SCENE))
        self.room.change(token, gains=(1.0,) * SLIDERS, task=task)
        return [a, a2, b, truth, *[1.0] * SLIDERS, self.room.look(token, (a, a2, b), truth)]


def _slot(label: str, elem_id: str) -> gr.Image:
    return gr.Image(
        label=label, sources=["upload", "clipboard"], type="pil", image_mode="RGBA", height=_HEIGHT, elem_id=elem_id,
        buttons=[],
    )  # fmt: skip


def _shown(label: str, elem_id: str, buttons: list[Any]) -> gr.Image:
    return gr.Image(label=label, interactive=False, height=_HEIGHT, elem_id=elem_id, buttons=buttons)


def _choices(*, second: bool = False) -> list[tuple[str, str]]:
    """Transforms by name; those kept out of training are marked. Only some can come second."""
    names = [name for name, transform in TRANSFORMS.items() if not second or transform.reads == "pixels"]
    return [(title(name) + (" (never trained on)" if name in UNSEEN else ""), name) for name in names]
