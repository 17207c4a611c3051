"""What is kept of an analogy: an ordinary LoRA with its recipe, and the strongest adapters as sources in Compose."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from studio.composing.compose import Composition
from studio.composing.export import export
from studio.core.errors import LoomError
from studio.formats.writers import writers_for
from studio.recipes.recipe import Recipe, Source
from studio.recipes.sources import UPLOAD
from studio.recipes.uploads import receive
from studio.session.jobs import Job
from studio.session.workspace import MAX_SOURCES, Workspace
from studio.ui.pictures.analogy.room import AnalogyRoom
from studio.ui.shell import markup
from studio.ui.shell.panel import PRIVATE, shows_errors, shows_errors_while
from studio.vision.export import OpenBasis, kept, recipe_at_large, recipe_of, strongest

_FORMATS = writers_for("image pipelines")
_MAX_RANK = 256


class ExportPanel:
    """Save, add to the workspace, open the basis."""

    def __init__(self, room: AnalogyRoom) -> None:
        self.room = room

    def build(self) -> None:
        """Both ways to keep."""
        with gr.Row():
            self.rank = gr.Slider(
                0, 128, 0, step=1, label="Rank", info="0 keeps all, exactly; less is cut by SVD", elem_id="keep-rank"
            )
            self.format = gr.Dropdown(
                [(writer.title, name) for name, writer in _FORMATS.items()], value="peft", label="Format",
                elem_id="keep-format", min_width=100,
            )  # fmt: skip
        with gr.Row():
            self.save = gr.Button("Save this analogy as a LoRA", size="sm", variant="primary", elem_id="save-analogy")
            self.add = gr.Button("Add it to Compose", size="sm", elem_id="add-analogy")
        self.download = gr.DownloadButton("Download", visible=False, size="sm", elem_id="download-analogy")
        self.saved = gr.HTML(elem_id="saved")
        gr.Markdown(
            "**The basis itself** is adapters like any other: its strongest ones open in Compose at their mean shares, "
            "where units, clusters and merges work on them."
        )
        with gr.Row():
            self.count = gr.Slider(2, MAX_SOURCES, 6, step=1, label="How many", elem_id="basis-count")
            self.open = gr.Button("Open the basis in Compose", size="sm", elem_id="open-basis")
        self.opened = gr.HTML(elem_id="opened")

    def wire(self) -> None:
        """Connect the listeners."""
        token, every = self.room.shared.token, self.room.shared.controls()
        wish = [token, self.rank, self.format]
        self.save.click(self.on_save, wish, [self.saved, self.download], **PRIVATE)
        self.add.click(self.on_add, wish[:2], [*every, self.opened], **PRIVATE)
        self.open.click(self.on_open, [token, self.count], [*every, self.opened], **PRIVATE)

    @shows_errors_while
    def on_save(self, token: str, rank: float, format: str) -> Iterator[dict[Any, Any]]:
        """Write the mix as an ordinary LoRA with its recipe, read it back, offer it."""
        workspace, opened, recipe = self._recipe(token, rank)
        if format not in _FORMATS:
            raise LoomError(f"There is no format {format!r}", next="choose one of the list")
        yield {self.saved: markup.message("Writing and reading back…", "busy"), self.download: gr.update(visible=False)}
        job = Job(partial(_written, workspace, opened, recipe, format))
        while not job.wait(0.5):
            done, total, _ = job.progress
            said = f"Composing and writing… {done} of {total or '?'} modules"
            yield {self.saved: markup.message(said, "busy")}
        path, composition = job.result()
        report = composition.report
        said = (
            f"Saved for {_FORMATS[format].title}: rank {report.rank}, {len(report.modules)} modules, "
            f"kept energy {report.kept_energy:.2%}, {path.stat().st_size / 1e6:.1f} MB, recipe inside, read back and "
            "compared."
        )
        yield {self.saved: markup.message(said, "good"), self.download: gr.update(value=str(path), visible=True)}

    @shows_errors
    def on_add(self, token: str, rank: float) -> dict[Any, Any]:
        """Put the analogy in the workspace of Compose, as one adapter."""
        workspace, opened, recipe = self._recipe(token, rank)
        path, _ = _written(workspace, opened, recipe, "peft", None)
        ((name, folder),) = receive([path], workspace.folder)
        if isinstance(folder, LoomError):
            raise folder
        workspace.add(Source(path=f"{UPLOAD}{folder.name}", name=recipe.name))
        return {
            **self.room.shared.refresh(workspace),
            self.opened: markup.message(f"{name} is in Compose now.", "good"),
        }

    @shows_errors
    def on_open(self, token: str, count: float) -> dict[Any, Any]:
        """Put the strongest adapters of the basis in the workspace of Compose."""
        workspace, session = self.room.shared.workspace(token), self.room.full(token)
        opened, mix = self.room.opened(session).basis, self.room.mixed(session)
        chosen = strongest(mix, min(max(int(count), 1), MAX_SOURCES))
        recipe = recipe_at_large(opened, mix, session.strength, chosen)
        workspace.load(recipe, f"{len(chosen)} adapters of the basis")
        said = f"{len(chosen)} adapters are in Compose now; Undo there brings back what was."
        return {**self.room.shared.refresh(workspace), self.opened: markup.message(said, "good")}

    def _recipe(self, token: str, rank: float) -> tuple[Workspace, OpenBasis, Recipe]:
        """The visitor's workspace, the basis, and the recipe of the analogy on the table."""
        workspace, session = self.room.shared.workspace(token), self.room.full(token)
        opened = self.room.opened(session)
        words = " then ".join(session.task) or "own pictures"
        recipe = recipe_of(
            opened.basis,
            self.room.mixed(session),
            session.strength,
            rank=min(max(int(rank or 0), 0), _MAX_RANK),
            name=f"analogy {words}".replace("_", " "),
            note=f"One visual analogy ({words}), by the {opened.title}. Steps {session.steps}, seed {session.seed}.",
        )
        return workspace, opened.basis, recipe


def _written(
    workspace: Workspace, opened: OpenBasis, recipe: Recipe, format: str, on_step: Any
) -> tuple[Path, Composition]:
    composition = kept(opened, recipe, on_step=on_step)
    folder = Path(tempfile.mkdtemp(prefix="analogy-", dir=workspace.exports))
    return export(composition, recipe, folder / f"{recipe.name}.zip", format=format), composition
