"""A part of the Modalities room: the adapters of a model's folder, Phi-4-multimodal's or any other's, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import gradio as gr

from studio.core.adapter import Adapter
from studio.core.data import assets
from studio.core.errors import LoomError
from studio.core.files import local_path
from studio.formats import embedded_adapters, open_adapter
from studio.formats.containers.bundle import read_config
from studio.formats.projections import split_projections
from studio.routing.modality_views import ModalityViews, modality_views
from studio.session.jobs import Job
from studio.ui.route.modalities import markup as html
from studio.ui.shell import markup
from studio.ui.shell.panel import PRIVATE, Shared, shows_errors_while

_PATIENCE = 0.5
_MOST = 4  # adapters side by side
_EMBEDDED = assets("mixture")
OnStep = Callable[[int, int, str], None]


class FolderPart:
    """Path in; norms, energy and what the adapters share out."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        is_local = shared.sessions.settings.is_local
        self.path = gr.Textbox(
            label="Folder of the model, on this machine",
            info="Its code and base weights are not read. Empty: the embedded mixture's own two adapters.",
            placeholder="/models/Phi-4-multimodal-instruct",
            visible=is_local,
            elem_id="phi-path",
        )
        with gr.Row():
            self.split = gr.Checkbox(
                label="Split fused projections", info="qkv and gate_up, exactly", elem_id="phi-split", visible=is_local
            )
            self.show = gr.Button("Show the adapters", size="sm", elem_id="phi-show")
        self.views = gr.HTML(
            markup.message("To merge two of them, add FOLDER#vision and FOLDER#speech in Compose."), elem_id="phi-views"
        )

    def wire(self) -> None:
        """Connect the listeners."""
        given = [self.shared.token, self.path, self.split]
        self.show.click(self.on_show, given, self.views, show_progress="hidden", concurrency_limit=2, **PRIVATE)

    @shows_errors_while
    def on_show(self, token: str, path: str | None, split: bool) -> Iterator[str]:
        """Open every adapter of the folder and compare them, module by module."""
        workspace = self.shared.workspace(token)
        place = local_path(path.strip()) if workspace.is_local and path and path.strip() else _EMBEDDED
        job = Job(partial(_compared, place, split))
        while not job.wait(_PATIENCE):
            done, of, _ = job.progress
            yield markup.message(f"Reading module {done} of {of}…" if of else "Opening…", "busy")
        yield html.folder(job.result())


def _compared(place: Path, split: bool, on_step: OnStep) -> ModalityViews:
    adapters = opened(place, split)
    return modality_views(adapters, lambda done, total: on_step(done, total, ""))


def opened(place: Path, split: bool = False) -> list[Adapter]:
    """All named adapters of a folder, fused projections split if wanted. Raises `LoomError` where it holds none."""
    names = embedded_adapters(place)
    if not 1 <= len(names) <= _MOST:
        why = f"it names {len(names)}; between 1 and {_MOST} can be compared" if names else "it names none"
        raise LoomError(f"{place.name} holds no adapters by modality", why, "give the folder of a whole model")
    adapters = [open_adapter(f"{place}#{name}").renamed(name) for name in names]
    if not split:
        return adapters
    config = place / "config.json" if place.is_dir() else place.with_name("config.json")
    about = read_config(config) if config.is_file() else {}
    return [split_projections(adapter, about) for adapter in adapters]
