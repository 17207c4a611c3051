"""The text preview: base, every source and the merge, writing side by side; it follows the sliders."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import gradio as gr

from studio.core.adapter import Adapter
from studio.core.data import assets
from studio.core.errors import Cancelled, LoomError, NotAtHand
from studio.session.jobs import Job
from studio.session.library import identity
from studio.session.workspace import Workspace
from studio.text.bases import find_base, is_at_hand
from studio.text.decoding import Decoding
from studio.text.preview import Preview, open_preview
from studio.ui.shell import markup
from studio.ui.shell.panel import EDIT, PRIVATE, Shared, shows_errors, shows_errors_while

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_POLL = 0.5  # seconds between two words on how long a base is loading
_PROMPTS = assets("text", "prompts.json")


class PreviewPanel:
    """Edits the prompt, and streams what every column writes."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.prompts = _shipped_prompts()
        with gr.Column(scale=11, min_width=320, elem_id="reading"):
            with gr.Row(elem_id="prompt-bar"):
                self.prompt = gr.Textbox(
                    label="Prompt",
                    placeholder="Type a prompt, or pick one",
                    lines=1,
                    max_lines=3,
                    scale=5,
                    elem_id="prompt",
                    min_width=200,
                )
                self.pick = gr.Dropdown(
                    [(caption, text) for caption, text in self.prompts.items()],
                    label="Pick a prompt",
                    scale=3,
                    elem_id="pick-prompt",
                    min_width=200,
                    value=None,
                )
                self.write = gr.Button("Write", variant="primary", size="sm", min_width=66, scale=0, elem_id="write")
                self.halt = gr.Button("Stop", size="sm", min_width=56, scale=0, elem_id="stop")
            self.columns = gr.HTML(
                markup.message("Type a prompt: base, sources and merge write side by side."), elem_id="columns"
            )
            with gr.Accordion("Reading settings: length, temperature, perplexity, base model", open=False):
                with gr.Row():
                    self.tokens = gr.Slider(1, 200, 48, step=1, label="Tokens", elem_id="tokens")
                    self.temperature = gr.Slider(
                        0,
                        2,
                        0,
                        step=0.05,
                        label="Temperature",
                        info="0 always takes the likeliest token.",
                        elem_id="temperature",
                    )
                self.text = gr.Textbox(
                    label="Perplexity of this text, beside each column",
                    info="Lower: the column expects the text more.",
                    lines=2,
                    elem_id="text",
                )
                with gr.Row():
                    self.base = gr.Textbox(
                        label="Base model",
                        info="Empty: the one the adapters name. A folder, or a Hub id.",
                        elem_id="base",
                        scale=4,
                    )
                    self.fetch = gr.Button("Load or download it", size="sm", scale=1, elem_id="fetch")

    def components(self) -> list[Any]:
        """Controls that the recipe sets."""
        return [self.prompt, self.tokens, self.temperature, self.text, self.base, self.pick]

    def controls(self, workspace: Workspace) -> dict[Any, Any]:
        """Prompt and settings as the recipe has them."""
        view = workspace.recipe.view
        return {
            self.prompt: view.prompt,
            self.tokens: view.tokens,
            self.temperature: view.temperature,
            self.text: view.text,
            self.base: workspace.recipe.base or "",
            self.pick: self._picked(workspace),
        }

    def wire(self) -> None:
        """Connect the listeners."""
        token, version = self.shared.token, self.shared.version
        settings = [token, self.prompt, self.tokens, self.temperature, self.text]
        for trigger in (
            self.write.click,
            self.prompt.submit,
            self.tokens.release,
            self.temperature.release,
            self.text.blur,
        ):
            trigger(self.on_settings, settings, [version, self.pick], **EDIT)
        self.pick.input(self.on_pick, [token, self.pick], [self.prompt, version], **EDIT)
        self.base.submit(self.on_base, [token, self.base], version, **EDIT)
        self.fetch.click(self.on_fetch, [token, self.base], [version, self.columns], **EDIT)
        self.halt.click(self.on_stop, [token], None, **EDIT)
        version.change(
            self.on_version,
            [token],
            self.columns,
            trigger_mode="always_last",
            show_progress="hidden",
            concurrency_limit=4,
            concurrency_id="text",
            **PRIVATE,
        )

    @shows_errors
    def on_settings(self, token: str, prompt: str, tokens: int, temperature: float, text: str) -> tuple[int, Any]:
        """Prompt or settings changed: write again."""
        workspace = self.shared.workspace(token)
        workspace.look(prompt=prompt or "", tokens=int(tokens), temperature=temperature, text=text or "")
        return workspace.touch(), self._picked(workspace)

    @shows_errors
    def on_pick(self, token: str, prompt: str | None) -> Any:
        """A shipped prompt was picked."""
        workspace = self.shared.workspace(token)
        if not prompt or prompt == workspace.recipe.view.prompt:
            return {}
        workspace.look(prompt=prompt)
        return prompt, workspace.touch()

    def _picked(self, workspace: Workspace) -> Any:
        """The shipped prompt in the workspace, if it is one."""
        prompt = workspace.recipe.view.prompt
        return gr.update(value=prompt if prompt in self.prompts.values() else None)

    @shows_errors
    def on_base(self, token: str, base: str) -> int:
        """Another base to preview on, and to name in the export."""
        workspace = self.shared.workspace(token)
        workspace.edit("base model", base=(base or "").strip() or None)
        return workspace.version

    @shows_errors_while
    def on_fetch(self, token: str, base: str) -> Iterator[dict[Any, Any]]:
        """Load the base, downloading it if need be."""
        workspace = self.shared.workspace(token)
        self.on_base(token, base or "")
        name = base_name(workspace)
        job, begun = Job(lambda _: self.shared.sessions.bases.get(name)), time.monotonic()
        while not job.wait(_POLL):
            far = f"Loading {name}; a download takes as long as it is large: {time.monotonic() - begun:.0f} s…"
            yield {self.columns: markup.message(far, "busy")}
        try:
            job.result()
        except LoomError as error:
            yield {self.columns: markup.message(str(error), "refused")}
            return
        yield {self.shared.version: workspace.touch()}

    @shows_errors
    def on_stop(self, token: str) -> None:
        """Stop writing; the sliders start it again."""
        self.shared.workspace(token).stop()

    @shows_errors_while
    def on_version(self, token: str) -> Iterator[str]:
        """The recipe or the prompt changed: write anew, until something newer comes."""
        workspace = self.shared.workspace(token)
        version, view = workspace.version, workspace.recipe.view
        if not workspace.recipe.sources or not view.prompt.strip():
            yield markup.message("Type a prompt, or pick one: base, sources and merge write side by side.")
            return
        try:
            preview = self.open(workspace)
            merge = workspace.compose().adapter
            yield from self.stream(workspace, preview, merge, version)
        except Cancelled:
            return
        except NotAtHand as error:
            yield markup.message(f"No text preview: {error} Map, merge and export work all the same.", "note")
        except LoomError as error:
            yield markup.message(str(error), "refused")

    def open(self, workspace: Workspace) -> Preview:
        """The preview of the workspace's sources over their base, loaded once for all visitors."""
        sources = workspace.sources()
        name = base_name(workspace)
        if not is_at_hand(name):
            raise NotAtHand(f"{name} is not on this machine", next="load it under Reading settings")
        base = self.shared.sessions.bases.get(name)
        key = (identity(sources.adapters), id(base))
        return workspace.results.kept("preview", key, partial(open_preview, base, sources.adapters))

    def stream(self, workspace: Workspace, preview: Preview, merge: Adapter, version: int) -> Iterator[str]:
        """The columns as they grow, then the perplexities if a text was given."""
        view, names = workspace.recipe.view, preview.columns(merge)
        decoding = Decoding(max_tokens=view.tokens, temperature=view.temperature, seed=workspace.recipe.seed)
        texts: tuple[str, ...] = ("",) * len(names)
        for texts in preview.generate(view.prompt, merge, decoding, stop=_Newer(workspace, version)):
            yield markup.columns(names, texts, {}, "writing…")
        if workspace.version != version:
            return
        measured, state = _measured(preview, view.text, merge)
        notes = [f"{finding.text}." for finding in preview.findings]
        yield markup.columns(names, texts, measured, " ".join([state, *notes]).strip())


class _Newer:
    """True once something newer is in the workspace."""

    def __init__(self, workspace: Workspace, version: int) -> None:
        self.workspace, self.version = workspace, version

    def __call__(self) -> bool:
        return self.workspace.version != self.version


def base_name(workspace: Workspace) -> str:
    """The base to preview on; a studio that is not local takes none by path, wherever the name came from."""
    name = workspace.recipe.base or find_base(workspace.adapters)
    if not workspace.is_local and not _HUB_ID.fullmatch(name):
        raise NotAtHand(f"{name} is a path", "this studio opens no files of its own machine", "give a Hub id")
    return name


def _measured(preview: Preview, text: str, merge: Adapter) -> tuple[Mapping[str, float], str]:
    if not text.strip():
        return {}, ""
    try:
        found = preview.perplexity(text, merge)
    except LoomError as error:
        return {}, str(error)
    left = f"; {found.left_out} tokens at its end did not fit the base's context" if found.left_out else ""
    return dict(zip(preview.columns(merge), found.values, strict=True)), f"Perplexity over {found.tokens} tokens{left}."


def _shipped_prompts() -> dict[str, str]:
    """Captions and prompts that come with the embedded base; none where it is not there yet."""
    if not _PROMPTS.is_file():
        return {}
    found = json.loads(_PROMPTS.read_text(encoding="utf-8"))
    return {str(item["caption"]): str(item["prompt"]) for item in found["prompts"]}
