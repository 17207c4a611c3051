"""Modalities: a text decoder that sees and hears through two adapters, and the rule that says which one is on."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import gradio as gr
import numpy as np
from PIL import Image

from studio.audio.features import NAMES, clip, recorded
from studio.audio.speech import RATE, WORDS
from studio.core.data import assets
from studio.core.errors import LoomError
from studio.mixture.world import (
    COLORS,
    HEARD,
    IMAGE_QUESTIONS,
    NEXT,
    OBJECTS,
    SPOKEN,
    Example,
    Sight,
    picture,
    spoken_prompt,
)
from studio.routing.modality import REFERENCE, Decision, Forced, Inputs, ModalityRouter
from studio.session.jobs import Job
from studio.ui.route.modalities import markup as html
from studio.ui.route.modalities.folder import FolderPart
from studio.ui.shell import markup
from studio.ui.shell.panel import PRIVATE, Shared, shows_errors, shows_errors_while
from studio.ui.shell.room import Room

_RESULTS = assets("mixture", "results.json")
_PATIENCE = 0.4
_LOGGED = 30
_SIDE = 64
_ENLARGED = 4
_RULE: Final = "follow the rule"
# By what the page calls them: what overrides the rule.
_ROUTES: Mapping[str, Forced | None] = MappingProxyType(
    {
        _RULE: None,
        "base alone": Forced(None),
        "vision": Forced("vision"),
        "speech": Forced("speech"),
        "both, summed": Forced("sum"),
    }
)
_TEXT = ("What is two plus five?", "What color is the sky?", "Which word is the opposite of cold?")
_QUESTIONS = [*IMAGE_QUESTIONS.values(), HEARD, NEXT, SPOKEN, *_TEXT]
# What is asked of each kind of input; the first is proposed when the input becomes of that kind.
_ASKED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"text": _TEXT, "image": tuple(IMAGE_QUESTIONS.values()), "audio": (HEARD, NEXT), "image+audio": (SPOKEN,)}
)
_NUMBERS = ("one", "two", "three")
_FIRST = Sight(2, "red", "star", "white")
Sound = tuple[int, np.ndarray[Any, Any]]


class ModalityPanel:
    """Text, picture and sound in; which adapter lights up, and what is said."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.store = _Store()
        self.lines = gr.State([])
        self.draws = gr.State(0)
        with gr.Row():
            with gr.Column(scale=5, min_width=320, elem_id="mixture-given"):
                self._build_inputs()
            with gr.Column(scale=6, min_width=320, elem_id="mixture-routed"):
                self._build_answer()

    def _build_inputs(self) -> None:
        self.question = gr.Dropdown(
            _QUESTIONS,
            value=_QUESTIONS[0],
            label="Question",
            info="Pick one, or write your own: text alone is answered by the base.",
            allow_custom_value=True,
            elem_id="asked",
        )
        with gr.Row():
            with gr.Column(min_width=150):
                self.image = gr.Image(
                    type="pil",
                    image_mode="RGB",
                    label="Picture",
                    height=190,
                    elem_id="seen",
                    sources=["upload", "clipboard"],
                )
                with gr.Row():
                    self.number = _choice(_NUMBERS, "two", "How many", "scene-number")
                    self.color = _choice(COLORS, "red", "Colour", "scene-color")
                with gr.Row():
                    self.shape = _choice(OBJECTS, "star", "Shape", "scene-shape")
                    self.ground = _choice(COLORS, "white", "Ground", "scene-ground")
                self.draw = gr.Button("Draw this", size="sm", elem_id="draw-scene")
            with gr.Column(min_width=150):
                self.sound = gr.Audio(
                    type="numpy", label="Sound", sources=["microphone", "upload"], elem_id="heard", buttons=[]
                )
                self.name = _choice(
                    [(f"“{name}”" if name in WORDS else name, name) for name in NAMES],
                    "color",
                    "Say or sound",
                    "sound-name",
                )
                self.make = gr.Button("Make this sound", size="sm", elem_id="make-sound")
                gr.HTML(markup.message("Its voice is a formant synthesiser's. It never heard a real one."))
        with gr.Accordion("Paint a picture", open=False):
            self.canvas = gr.ImageEditor(type="pil", height=260, canvas_size=(256, 256), label="Paint", elem_id="paint")
            self.use = gr.Button("Use the painting", size="sm", elem_id="use-painting")

    def _build_answer(self) -> None:
        self.state = gr.HTML(
            markup.message("The mixture loads when this page is first opened."), elem_id="mixture-state"
        )
        self.route = gr.Radio(list(_ROUTES), value=_RULE, label="Which adapter", elem_id="route-by")
        self.lamps = gr.HTML(elem_id="lamps")
        with gr.Row():
            self.ask = gr.Button("Ask", variant="primary", size="sm", elem_id="ask")
            self.compare = gr.Button("Ask every way", size="sm", elem_id="ask-all")
        self.answer = gr.HTML(markup.message("Draw a picture or make a sound, then ask."), elem_id="mixture-said")
        with gr.Tabs():
            with gr.Tab("Decisions", elem_classes="pane"):
                self.table = gr.HTML(html.rules(REFERENCE, None), elem_id="rules")
                self.log = gr.HTML(html.log([]), elem_id="decisions")
            with gr.Tab("Measured", elem_classes="pane"):
                self.matrix = gr.HTML(measured(_RESULTS), elem_id="matrix")
            with gr.Tab("A Phi-4 folder", elem_classes="pane"):
                self.folder = FolderPart(self.shared)

    # Listening -------------------------------------------------------------------------------------------------------

    def wire(self, tab: gr.Tab) -> None:
        """Connect the listeners; the mixture is loaded when `tab` is first opened."""
        token, given = self.shared.token, [self.image, self.sound, self.route]
        tab.select(
            self.on_open, [token, self.image], [self.state, self.image, self.answer, self.lamps, self.table], **PRIVATE
        )
        for trigger in (self.image.change, self.sound.change, self.route.change):
            trigger(
                self.on_given,
                [self.question, *given],
                [self.question, self.lamps, self.table],
                show_progress="hidden",
                **PRIVATE,
            )
        scene = [self.number, self.color, self.shape, self.ground, self.draws]
        self.draw.click(self.on_draw, scene, [self.image, self.draws], **PRIVATE)
        self.make.click(self.on_make, [self.name, self.draws], [self.sound, self.draws], **PRIVATE)
        self.use.click(self.on_painted, [self.canvas], self.image, **PRIVATE)
        asked = [token, self.question, *given]
        quiet: dict[str, Any] = {**PRIVATE, "show_progress": "hidden"}  # the state says what goes on
        self.ask.click(self.on_ask, [*asked, self.lines], [self.state, self.answer, self.lines, self.log], **quiet)
        every = [self.state, self.answer, self.lines, self.log]
        self.compare.click(self.on_compare, [*asked, self.lines], every, **quiet)
        self.folder.wire()

    @shows_errors_while
    def on_open(self, token: str, image: Image.Image | None) -> Iterator[dict[Any, Any]]:
        """The tab was opened: load the mixture once, and begin with a picture and its answer."""
        self.shared.workspace(token)
        first = image is None
        if image is None:
            image = shown(_FIRST, 1)
            decision = decided(inputs_of(image, None), _RULE)  # a picture set before it is on the page tells no change
            yield {self.image: image, self.lamps: html.lamps(decision), self.table: html.rules(REFERENCE, decision)}
        job = Job(self.store.load)
        while not job.wait(_PATIENCE):
            yield {self.state: markup.message("Loading the mixture: a few seconds, once…", "busy")}
        mixture = job.result()
        yield {self.state: ""}
        if first:
            example = example_of(_QUESTIONS[0], image, None)
            (said,) = mixture.answer([example], decided(example.inputs, _RULE).adapter)
            yield {self.answer: html.answer(_QUESTIONS[0], said)}

    @shows_errors
    def on_given(
        self, question: str | None, image: Image.Image | None, sound: Sound | None, route: str
    ) -> tuple[Any, str, str]:
        """Something was put in, or the override changed: a question that fits, unless it is a visitor's own; lamps."""
        decision = decided(inputs_of(image, sound), route)
        fitting = _ASKED[decision.inputs.mode]
        is_ready = question in _QUESTIONS and question not in fitting
        return (fitting[0] if is_ready else gr.skip()), html.lamps(decision), html.rules(REFERENCE, decision)

    @shows_errors
    def on_draw(self, number: str, color: str, shape: str, ground: str, draws: int) -> tuple[Any, int]:
        """A picture as described; each time another one."""
        if color == ground:
            raise LoomError(f"A {color} {shape} on {ground} cannot be seen", next="choose another ground")
        return shown(Sight(_NUMBERS.index(number) + 1, color, shape, ground), draws + 1), draws + 1

    @shows_errors
    def on_make(self, name: str, draws: int) -> tuple[Sound, int]:
        """A spoken word or a sound; each time another one."""
        wave = clip(name, draws + 1)
        return (RATE, (wave / max(np.abs(wave).max(), 1e-6) * 30000).astype(np.int16)), draws + 1

    @shows_errors
    def on_painted(self, painted: Any) -> Any:
        """The painted picture becomes the picture."""
        found = painted.get("composite") if isinstance(painted, dict) else None
        if not isinstance(found, Image.Image):
            raise LoomError("Nothing was painted", next="draw something on the canvas first")
        white = Image.new("RGB", found.size, "white")
        white.paste(found, mask=found.getchannel("A") if "A" in found.getbands() else None)
        return white

    @shows_errors_while
    def on_ask(
        self, token: str, question: str, image: Image.Image | None, sound: Sound | None, route: str, lines: list[str]
    ) -> Iterator[dict[Any, Any]]:
        """Ask under the routed adapter, and write the decision down."""
        self.shared.workspace(token)
        example = example_of(question, image, sound)
        decision = decided(example.inputs, route)
        (said,) = yield from self._said("Thinking…", example, [decision])
        lines = [f"{decision.said}: {question.strip()[:60]} — {said.strip()[:60]}", *lines][:_LOGGED]
        yield {
            self.state: "",
            self.answer: html.answer(question, said),
            self.lines: lines,
            self.log: html.log(lines),
        }

    @shows_errors_while
    def on_compare(
        self, token: str, question: str, image: Image.Image | None, sound: Sound | None, route: str, lines: list[str]
    ) -> Iterator[dict[Any, Any]]:
        """The same question under every adapter, none, and both; the rule's own answer marked."""
        self.shared.workspace(token)
        example = example_of(question, image, sound)
        ways = [name for name in _ROUTES if name != _RULE]
        decisions = [decided(example.inputs, name) for name in ways]
        answers = yield from self._said("Asking four ways…", example, decisions)
        said = dict(zip(ways, answers, strict=True))
        follow = decided(example.inputs, _RULE).adapter
        lines = [f"Every way: {question.strip()[:60]} — by the rule {follow or 'the base alone'}", *lines][:_LOGGED]
        found = html.every_way(said, follow or "base alone")
        yield {self.state: "", self.answer: found, self.lines: lines, self.log: html.log(lines)}

    def _said(
        self, busy: str, example: Example, decisions: Sequence[Decision]
    ) -> Generator[dict[Any, Any], None, list[str]]:
        """The answers under each decision, told as busy meanwhile and as refused where there are none."""
        yield {self.state: markup.message(busy, "busy")}
        try:
            mixture = self.store.load()
            return [mixture.answer([example], decision.adapter)[0] for decision in decisions]
        except LoomError:
            yield {self.state: markup.message("Nothing was answered.", "refused")}
            raise


ROOM = Room(
    id="modalities",
    title="Modalities",
    summary="Choose the adapter by what the input holds: text, a picture, a sound, or both.",
    docs="modality.md",
    panel=ModalityPanel,
)


def inputs_of(image: Image.Image | None, sound: Sound | None) -> Inputs:
    """What the rule looks at."""
    return Inputs(True, image is not None, sound is not None)


def decided(inputs: Inputs, route: str) -> Decision:
    """The decision by the rule, or by the override of this name. Raises `LoomError` for an unknown one."""
    if route not in _ROUTES:
        raise LoomError(f"There is no adapter {str(route)[:40]!r}", next=f"choose from {', '.join(_ROUTES)}")
    return ModalityRouter(forced=_ROUTES[route]).decide(inputs)


def example_of(question: str | None, image: Image.Image | None, sound: Sound | None) -> Example:
    """What a visitor gave, as the mixture reads it. Raises `LoomError` for an empty question or a silent recording."""
    asked = " ".join((question or "").split())
    if not asked:
        raise LoomError("There is no question", next="pick one, or write your own")
    return Example(
        spoken_prompt(asked),
        "",
        None if image is None else np.asarray(_squared(image).resize((_SIDE, _SIDE), Image.Resampling.BOX), np.uint8),
        None if sound is None else recorded(int(sound[0]), sound[1]),
    )


def shown(sight: Sight, seed: int) -> Image.Image:
    """A picture of the world, each pixel large enough to see; `example_of` makes it small again, exactly."""
    small = Image.fromarray(picture(sight, seed))
    return small.resize((_ENLARGED * _SIDE, _ENLARGED * _SIDE), Image.Resampling.NEAREST)


def measured(path: Path) -> str:
    """The matrix of bench/results, or a sentence where it is not in this copy."""
    if not path.is_file():
        return markup.message("The matrix is not in this copy of the studio; `python -m bench.modality` measures it.")
    return html.matrix(json.loads(path.read_text(encoding="utf-8")))


def _squared(image: Image.Image) -> Image.Image:
    """The middle square, in three channels."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.convert("RGB").crop((left, top, left + side, top + side))


def _choice(choices: Any, value: str, label: str, id: str) -> gr.Dropdown:
    return gr.Dropdown(list(choices), value=value, label=label, elem_id=id, min_width=80)


class _Store:
    """The mixture, with both adapters' sum beside them, loaded once for all visitors."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mixture: Any = None

    def load(self, on_step: object = None) -> Any:
        """The open mixture."""
        from studio.mixture.merged import SUM, add_merges
        from studio.mixture.model import open_mixture

        with self._lock:
            if self._mixture is None:
                mixture = open_mixture()
                add_merges(mixture, names=(SUM,))
                self._mixture = mixture
            return self._mixture
