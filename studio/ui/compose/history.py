"""History, named versions, recipes in and out, and the export."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from studio.composing.export import export
from studio.core.errors import Cancelled, LoomError, Refused
from studio.core.files import write_atomic
from studio.formats import WRITERS
from studio.recipes.recipe import MAX_BYTES, Recipe, read_yaml
from studio.session.jobs import Job
from studio.session.workspace import Workspace
from studio.ui.shell import markup
from studio.ui.shell.panel import EDIT, PRIVATE, Shared, shows_errors, shows_errors_while

_SHOWN = 40
_HINT = "A zip with the adapter, its card and this recipe; it is read back and compared before it is offered."
_POLL = 0.5  # seconds between two words on how far an export is


class HistoryPanel:
    """Steps, versions, recipes, export."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        with gr.Column(scale=5, min_width=300, elem_id="keeping"), gr.Tabs():
            with gr.Tab("Export", elem_classes="pane"):
                with gr.Row():
                    self.name = gr.Textbox("merge", label="Name", elem_id="export-name", min_width=120)
                    self.dtype = gr.Dropdown(
                        ["float32", "float16", "bfloat16"],
                        value="float32",
                        label="Numbers",
                        min_width=90,
                        elem_id="export-dtype",
                    )
                    self.format = gr.Dropdown(
                        [(writer.title, name) for name, writer in WRITERS.items()],
                        value="peft",
                        label="Format",
                        min_width=90,
                        elem_id="export-format",
                    )
                with gr.Row():
                    self.export = gr.Button("Export", variant="primary", size="sm", elem_id="export")
                    self.stop = gr.Button("Stop", size="sm", visible=False, elem_id="stop-export")
                    self.download = gr.DownloadButton("Download", size="sm", visible=False, elem_id="download")
                self.exported = gr.HTML(markup.message(_HINT), elem_id="exported")
            with gr.Tab("History", elem_classes="pane"):
                with gr.Row():
                    self.title = gr.Textbox(
                        label="Name of this version",
                        show_label=False,
                        placeholder="Name this version",
                        scale=3,
                        elem_id="version-name",
                    )
                    self.keep = gr.Button("Keep", size="sm", scale=1, min_width=56, elem_id="keep-version")
                self.versions = gr.Dropdown([], label="Named versions", elem_id="versions", visible=False)
                self.steps = gr.Radio([], label="History", show_label=False, elem_id="steps", type="value")
            with gr.Tab("Recipe", elem_classes="pane"):
                with gr.Row():
                    self.save = gr.DownloadButton("Download recipe", size="sm", elem_id="save-recipe")
                    self.open = gr.UploadButton(
                        "Open recipe or export", file_types=[".yaml", ".yml", ".zip"], size="sm", elem_id="open-recipe"
                    )
                self.recipe = gr.Code(
                    language="yaml", interactive=False, elem_id="recipe", max_lines=12, label="Recipe"
                )

    def components(self) -> list[Any]:
        """Controls that the recipe sets."""
        return [self.name, self.download, self.exported, self.versions]

    def controls(self, workspace: Workspace) -> dict[Any, Any]:
        """Name and versions; an export made before belongs to what was before."""
        return {
            self.name: workspace.recipe.name or "merge",
            self.download: gr.update(visible=False),
            self.exported: markup.message(_HINT),
            self.versions: gr.update(choices=list(workspace.snapshots), value=None, visible=bool(workspace.snapshots)),
        }

    def wire(self) -> None:
        """Connect the listeners."""
        token, every = self.shared.token, self.shared.controls()
        self.steps.input(self.on_step, [token, self.steps], every, **EDIT)
        for trigger in (self.keep.click, self.title.submit):
            trigger(self.on_keep, [token, self.title], [self.title, self.versions], **EDIT)
        self.versions.input(self.on_version_chosen, [token, self.versions], every, **EDIT)
        self.open.upload(self.on_open, [token, self.open], every, **EDIT)
        self.stop.click(self.on_stop, [token], None, **EDIT)
        done = [self.exported, self.download, self.stop]
        self.export.click(
            self.on_export,
            [token, self.name, self.dtype, self.format],
            done,
            concurrency_limit=2,
            show_progress="hidden",
            **PRIVATE,
        )
        shown = [self.steps, self.recipe, self.save, self.download, self.exported]
        self.shared.version.change(self.on_version, [token], shown, **EDIT)

    @shows_errors
    def on_version(self, token: str) -> dict[Any, Any]:
        """The recipe changed: history, recipe text; an export made before is out of date."""
        workspace = self.shared.workspace(token)
        history = workspace.history
        first = max(0, len(history.steps) - _SHOWN)
        steps = [(f"{i + 1} · {step.label}", i) for i, step in enumerate(history.steps)][first:][::-1]
        text = workspace.pinned().to_yaml()
        return {
            self.steps: gr.update(choices=steps, value=history.at),
            self.recipe: text,
            self.save: _recipe_file(workspace, text),
            self.download: gr.update(visible=False),
            self.exported: markup.message(_HINT),
        }

    @shows_errors
    def on_step(self, token: str, step: int | None) -> dict[Any, Any]:
        """A row of the history brings everything back."""
        workspace = self.shared.workspace(token)
        if step is not None:
            workspace.go_to(int(step))
        return self.shared.refresh(workspace)

    @shows_errors
    def on_keep(self, token: str, title: str) -> tuple[str, Any]:
        """Keep the recipe under a name."""
        workspace = self.shared.workspace(token)
        workspace.save_snapshot(title or "")
        return "", gr.update(choices=list(workspace.snapshots), visible=True)

    @shows_errors
    def on_version_chosen(self, token: str, name: str | None) -> dict[Any, Any]:
        """Bring a named version back."""
        workspace = self.shared.workspace(token)
        recipe = workspace.snapshots.get(name or "")
        if recipe is None:
            return {}
        workspace.load(recipe, f"version {name}")
        return self.shared.refresh(workspace)

    @shows_errors
    def on_open(self, token: str, file: str | None) -> dict[Any, Any]:
        """Open a recipe, or the recipe inside an export."""
        workspace = self.shared.workspace(token)
        if not file:
            return {}
        recipe = read_recipe_from(Path(file))
        workspace.load(recipe, f"open {recipe.name or Path(file).stem}")
        return self.shared.refresh(workspace)

    @shows_errors_while
    def on_export(self, token: str, name: str, dtype: str, format: str = "peft") -> Iterator[dict[Any, Any]]:
        """Write a zip, read it back, compare, and only then offer it."""
        workspace = self.shared.workspace(token)
        if not workspace.recipe.sources:
            raise LoomError("There is nothing to export", next="add an adapter")
        digest, recipe = workspace.recipe.digest(), workspace.pinned()
        recipe = recipe.model_copy(update={"name": (name or "").strip()[:80] or "merge"})
        job = Job(partial(_exported, workspace, recipe, digest, dtype, format))
        yield self._export_said("Merging, writing, reading back…", "busy", stop=True)
        while not job.wait(_POLL):
            done, total = workspace.progress
            far = f"Merging: {done} of {total} modules…" if done < total else "Writing, reading back, comparing…"
            yield self._export_said(far, "busy", stop=True)
        try:
            written, count = job.result()
        except LoomError as error:
            yield self._export_said(str(error), "note" if isinstance(error, Cancelled) else "refused")
            return
        size = written.stat().st_size / 1e6
        said = f"Exported: {written.name}, {size:.1f} MB. {count} modules read back and compared."
        yield {**self._export_said(said, "good"), self.download: gr.update(value=str(written), visible=True)}

    @shows_errors
    def on_stop(self, token: str) -> None:
        """Stop the export's merge; the files are not written."""
        self.shared.workspace(token).stop()

    def _export_said(self, text: str, kind: str, *, stop: bool = False) -> dict[Any, Any]:
        return {
            self.exported: markup.message(text, kind),
            self.download: gr.update(visible=False),
            self.stop: gr.update(visible=stop),
        }


def read_recipe_from(file: Path) -> Recipe:
    """The recipe of a YAML file or of an export's zip."""
    if file.suffix == ".zip":
        try:
            with zipfile.ZipFile(file) as archive:
                inside = [info for info in archive.infolist() if Path(info.filename).name == "recipe.yaml"]
                if len(inside) != 1 or inside[0].file_size > MAX_BYTES:
                    raise Refused(f"{file.name} holds no recipe", next="give an export of this studio, or a recipe")
                return read_yaml(archive.read(inside[0]).decode("utf-8", "replace"))
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
            raise Refused(f"{file.name} is not a whole zip file", str(error), "download it again") from error
    if file.stat().st_size > MAX_BYTES:
        raise Refused(f"{file.name} is too large for a recipe")
    return read_yaml(file.read_text(encoding="utf-8", errors="replace"))


def _exported(
    workspace: Workspace, recipe: Recipe, digest: str, dtype: Any, format: str, on_step: Any
) -> tuple[Path, int]:
    """Merge, write, read back, compare: the zip, and how many modules it holds. `digest` is that of the recipe."""
    composition = workspace.compose(on_step=on_step)
    if composition.report.recipe_digest != digest:
        raise Cancelled("The recipe changed meanwhile", next="export again")
    folder = Path(tempfile.mkdtemp(prefix="export-", dir=workspace.exports))
    plain = "".join(c if c.isalnum() or c in "._- " else "-" for c in recipe.name).strip(". ") or "merge"
    file = f"{plain}.zip" if format == "peft" else f"{plain} ({format}).zip"
    written = export(composition, recipe, folder / file, format=format, dtype=dtype)
    return written, len(composition.adapter.modules)


def _recipe_file(workspace: Workspace, text: str) -> str:
    path = workspace.exports / "recipe.yaml"
    write_atomic(path, text.encode())
    return str(path)
