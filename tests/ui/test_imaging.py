"""The Image room's handlers as plain functions: on the embedded model, and on a small Stable Diffusion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest

from studio.formats import save_adapter
from studio.recipes.recipe import Source
from studio.session.store import Sessions, Settings
from studio.ui.pictures.image.form import DrawForm, GridForm
from studio.ui.pictures.image.page import ImagePanel
from studio.ui.shell.panel import Shared
from studio.ui.shell.warm_up import WarmUp
from tests.image_bases import quiet, whole_sd
from tests.pipelines import adapter_for

WISH = DrawForm(base="", accept=False, edit="", prompt="make it blue", steps=2, guidance=2.0, seed=0, size=16)
GRID = GridForm(**asdict(WISH), first="grayscale", second="blur", low=0, high=1, count=2)


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> ImagePanel:
    sessions = Sessions(Settings(tmp_path_factory.mktemp("rooms")))
    with gr.Blocks(), gr.Tab("Image") as tab:
        made = ImagePanel(Shared(sessions, WarmUp(()), gr.State(""), gr.State(0), gr.State("")))
        made.wire(tab)
    return made


@pytest.fixture
def token(panel: ImagePanel) -> str:
    return panel.shared.sessions.enter(None)[0].token


def drawn(updates: Iterator[dict[Any, Any]], into: Any) -> list[Any]:
    """The pictures as they stand at the end."""
    *_, last = [update[into] for update in updates if into in update]
    assert last["visible"]  # none of them before the first picture
    pictures: list[Any] = last["value"]
    return pictures


def test_the_embedded_model_draws_its_own_adapters(panel: ImagePanel, token: str) -> None:
    with pytest.raises(gr.Error):
        list(panel.on_draw(token, WISH))
    panel.shared.workspace(token).add(Source(path="loom:math"))
    assert "On the desk: math. They are for a text model." in panel.on_workspace(token)[panel.note]
    *_, updates = panel.on_bring(token)
    assert panel.shared.version in updates
    named = panel.on_workspace(token)
    assert "grayscale, blur" in named[panel.note]
    assert named[panel.first]["value"] == "grayscale"
    row = drawn(panel.on_draw(token, WISH), panel.row)
    assert [title for _, title in row] == ["base", "grayscale", "blur", "merge"]
    colour, grey = (float(np.ptp(np.asarray(row[k][0], float), axis=2).mean()) for k in (0, 1))
    assert grey < 0.6 * colour  # the LoRA alone does its edit
    cells = drawn(panel.on_grid(token, GRID), panel.grid)
    assert [title for _, title in cells][1] == "1 · 0"
    assert [picture.tobytes() for picture, _ in cells[:3]] == [picture.tobytes() for picture, _ in row[:3]]
    for wrong in ({"first": "blur"}, {"second": "none"}, {"low": None}):
        with pytest.raises(gr.Error):
            list(panel.on_grid(token, replace(GRID, **wrong)))


def test_a_folder_of_diffusers_draws_ordinary_loras(panel: ImagePanel, token: str, tmp_path: Path) -> None:
    pipeline = quiet(whole_sd())
    pipeline.save_pretrained(tmp_path / "base")
    workspace = panel.shared.workspace(token)
    made = adapter_for(pipeline)
    quieter = {n: replace(m, scaling=m.scaling * 0.02) for n, m in made.modules.items()}
    saved = save_adapter(replace(made, modules=quieter), tmp_path / "lora", "diffusers")
    workspace.add(Source(path=str(saved), name="lora"))
    row = drawn(panel.on_draw(token, replace(WISH, base=str(tmp_path / "base"))), panel.row)
    assert [title for _, title in row] == ["base", "lora", "merge"]
    assert row[0][0].size == (16, 16)
    assert row[0][0].tobytes() != row[1][0].tobytes() == row[2][0].tobytes()  # one adapter at weight 1
    with pytest.raises(gr.Error, match=r"terms|tick the box"):
        list(panel.on_draw(token, replace(WISH, base="black-forest-labs/FLUX.1-Kontext-dev")))


def test_the_controls_are_those_of_the_base(panel: ImagePanel, token: str) -> None:
    diffusion = (panel.prompt, panel.guidance, panel.size)
    empty = panel.on_workspace(token)
    assert all(empty[control]["visible"] for control in diffusion)
    assert not empty[panel.edit]["visible"]
    assert empty[panel.steps] == 20
    *_, _ = panel.on_bring(token)
    ours = panel.on_workspace(token, None, was_ours=False)
    assert not any(ours[control]["visible"] for control in diffusion)
    assert ours[panel.edit]["visible"]
    assert ours[panel.steps] == 2
    assert panel.steps not in panel.on_workspace(token, None, was_ours=True)  # what the visitor chose stays
    gated = panel.on_workspace(token, "black-forest-labs/FLUX.1-Kontext-dev", was_ours=True)
    assert gated[panel.accept]["visible"]
    assert "non-commercial" in gated[panel.accept]["info"]
    assert not ours[panel.accept]["visible"]
    typed = panel.on_base(token, "somebody/base", True)
    assert not {panel.first, panel.second, panel.note} & typed.keys()  # what was chosen and said stays
    assert typed[panel.steps] == 20
    with pytest.raises(gr.Error, match="not a path"):
        panel.on_workspace(token, "~nobody-of-that-name/" + "x" * 300)


def test_a_base_that_cannot_be_opened_leaves_no_busy_note(panel: ImagePanel, token: str, tmp_path: Path) -> None:
    list(panel.on_bring(token))
    updates = panel.on_draw(token, replace(WISH, base=str(tmp_path)))
    said = [next(updates)]
    with pytest.raises(gr.Error, match=r"model_index\.json"):
        said.extend(updates)
    assert "Opening the base" in said[0][panel.note]
    assert "Nothing was drawn" in said[-1][panel.note]
    assert not said[-1][panel.halt]["interactive"]


def test_a_drawing_can_be_stopped_and_its_pictures_stay(panel: ImagePanel, token: str) -> None:
    list(panel.on_bring(token))
    updates = panel.on_grid(token, replace(GRID, count=6))
    shown: list[Any] = []
    for update in updates:
        if panel.grid in update and update[panel.grid]["value"]:
            shown = update[panel.grid]["value"]
            panel.on_halt(token)
        last = update
    assert 0 < len(shown) < 36
    assert f"Stopped: {len(shown)} of 36" in last[panel.note]
    assert not last[panel.halt]["interactive"]


def test_a_newer_drawing_ends_the_older_and_keeps_its_own_words(panel: ImagePanel, token: str) -> None:
    list(panel.on_bring(token))
    older = panel.on_grid(token, replace(GRID, count=6))
    next(older)
    assert len(drawn(panel.on_draw(token, WISH), panel.row)) == 4
    *_, last = older
    assert panel.halt not in last


def test_a_shared_studio_opens_no_bases(tmp_path: Path) -> None:
    sessions = Sessions(Settings(tmp_path, is_local=False))
    with gr.Blocks():
        panel = ImagePanel(Shared(sessions, WarmUp(()), gr.State(""), gr.State(0), gr.State("")))
    token = sessions.enter(None)[0].token
    list(panel.on_bring(token))
    with pytest.raises(gr.Error) as caught:
        list(panel.on_draw(token, replace(WISH, base="/etc")))
    assert "shared" in caught.value.message
