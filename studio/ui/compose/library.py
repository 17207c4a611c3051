"""The library: adapters in, by upload, folder, Hub id or from the studio's own; each with its verdict."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from studio.core.errors import LoomError
from studio.core.files import local_path
from studio.recipes.recipe import Source
from studio.recipes.sources import EMBEDDED, UPLOAD, embedded_paths
from studio.recipes.uploads import receive
from studio.session.jobs import Job
from studio.session.workspace import MAX_SOURCES, Workspace
from studio.ui.shell import markup
from studio.ui.shell.panel import EDIT, Shared, shows_errors, shows_errors_while

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(#[\w.-]+)?(@[\w.-]+)?")
_PATIENCE = 0.5  # seconds until the page says what it is waiting for
_SUFFIXES = [".safetensors", ".bin", ".pt", ".pth", ".npz", ".zip", ".json"]


class LibraryPanel:
    """Adds and removes adapters."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        with gr.Column(scale=3, min_width=250, elem_id="library"):
            self.drop = gr.File(
                label="Drop adapters here",
                file_count="multiple",
                file_types=_SUFFIXES,
                height=84,
                elem_id="drop",
            )
            with gr.Row():
                self.place = gr.Textbox(
                    label="Hub id, or a local folder",
                    placeholder="owner/name",
                    elem_id="place",
                    scale=4,
                    min_width=120,
                )
                self.add = gr.Button("Add", size="sm", scale=1, min_width=56, elem_id="add")
            self.own = gr.Dropdown(label="Or one of the studio's own", elem_id="own", choices=_own_choices())
            self.status = gr.HTML(elem_id="said")
            self.cards: list[gr.HTML] = []
            self.removes: list[gr.Button] = []
            self.rows: list[gr.Row] = []
            with gr.Column(elem_id="cards"):
                for index in range(MAX_SOURCES):
                    self._build_row(index)
            self.empty = gr.HTML(markup.message("No adapters yet: drop some files, or take the studio's own."))

    def _build_row(self, index: int) -> None:
        with gr.Row(visible=False, elem_classes="adapter") as row:
            self.cards.append(gr.HTML())
            self.removes.append(gr.Button("✕", size="sm", min_width=28, scale=0, elem_id=f"remove-{index}"))
        self.rows.append(row)

    def components(self) -> list[Any]:
        """Cards, their rows, and the sentence for an empty library."""
        return [*self.rows, *self.cards, self.empty, self.own, self.status]

    def controls(self, workspace: Workspace) -> dict[Any, Any]:
        """One card for each adapter."""
        entries = workspace.entries
        updates: dict[Any, Any] = {self.empty: gr.update(visible=not entries), self.own: gr.update(value=None)}
        for index, (row, card) in enumerate(zip(self.rows, self.cards, strict=True)):
            updates[row] = gr.update(visible=index < len(entries))
            if index < len(entries):
                updates[card] = markup.card(entries[index])
        return updates

    def wire(self) -> None:
        """Connect the listeners."""
        token, outputs = self.shared.token, self.shared.controls()
        long = {**EDIT, "trigger_mode": "multiple"}
        self.drop.upload(self.on_upload, [token, self.drop], [*outputs, self.drop], **long)
        for trigger in (self.add.click, self.place.submit):
            trigger(self.on_add, [token, self.place], [*outputs, self.place], **long)
        self.own.input(self.on_own, [token, self.own], outputs, **long)
        for index, button in enumerate(self.removes):
            button.click(partial(self.on_remove, index), [token], outputs, **EDIT)

    @shows_errors_while
    def on_upload(self, token: str, files: Sequence[str] | None) -> Iterator[dict[Any, Any]]:
        """Open what was dropped; what cannot be opened is listed with its reason, the rest is added."""
        workspace, count = self.shared.workspace(token), len(files or ())
        yield {self.status: markup.message(f"Opening {count} file{'s' * (count != 1)}…", "busy"), self.drop: None}
        failed, version = [], workspace.version
        for name, upload in receive([Path(file) for file in files or ()], workspace.folder):
            try:
                if isinstance(upload, LoomError):
                    raise upload
                workspace.add(Source(path=f"{UPLOAD}{upload.name}", name=name))
            except LoomError as error:
                failed.append((name, str(error)))
        updates = self.shared.refresh(workspace) if workspace.version != version else {}
        yield {**updates, self.status: markup.refusals(failed)}

    @shows_errors_while
    def on_add(self, token: str, place: str) -> Iterator[dict[Any, Any]]:
        """Open a folder of this machine, or a Hub id (`owner/name`, or `owner/name@revision`)."""
        workspace, place = self.shared.workspace(token), (place or "").strip()
        if not place:
            raise LoomError("Nothing was named", next="write a Hub id such as owner/name, or a folder")
        source = _source(place, workspace.is_local)
        job, begun = Job(lambda _: workspace.add(source)), time.monotonic()
        while not job.wait(_PATIENCE):
            where = "Fetching from the Hub" if source.hub else "Opening"
            yield {self.status: markup.message(f"{where}: {place}, {time.monotonic() - begun:.0f} s…", "busy")}
        try:
            job.result()
        except LoomError as error:
            yield {self.status: markup.refusals([(place, str(error))])}
        else:
            yield {**self.shared.refresh(workspace), self.status: "", self.place: ""}

    @shows_errors
    def on_own(self, token: str, path: str | None) -> dict[Any, Any]:
        """Add one of the studio's own adapters."""
        workspace = self.shared.workspace(token)
        if not path:
            return {}
        try:
            workspace.add(Source(path=path, name=path.removeprefix(EMBEDDED)))
        except LoomError:
            if path in {source.path for source in workspace.recipe.sources}:
                return {}  # the dropdown said it again when it lost the focus
            raise
        return {**self.shared.refresh(workspace), self.status: ""}

    @shows_errors
    def on_remove(self, index: int, token: str) -> dict[Any, Any]:
        """Take an adapter off the workspace."""
        workspace = self.shared.workspace(token)
        workspace.remove(index)
        return self.shared.refresh(workspace)


def _own_choices() -> list[tuple[str, str]]:
    return [(path.removeprefix(EMBEDDED), path) for path in embedded_paths()]


def _source(place: str, is_local: bool) -> Source:
    path = local_path(place)
    if _HUB_ID.fullmatch(place) and not (is_local and path.exists()):
        hub, _, revision = place.partition("@")
        return Source(hub=hub, revision=revision or None, name=hub.rpartition("/")[2])
    return Source(path=place, name=path.resolve().stem if path.suffix else path.resolve().name)
