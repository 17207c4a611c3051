"""The Analogy room's handlers as plain functions, on the embedded model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from studio.formats import open_adapter
from studio.recipes.recipe import Source
from studio.session.store import Sessions, Settings
from studio.ui.pictures.analogy import atlas, models
from studio.ui.pictures.analogy.atlas import BRINGS, MOVES
from studio.ui.pictures.analogy.other import KontextForm
from studio.ui.pictures.analogy.page import AnalogyPanel
from studio.ui.pictures.analogy.room import Drawing
from studio.ui.shell.panel import Shared
from studio.ui.shell.warm_up import WarmUp
from studio.units import pca
from tests.kontext import clip_folder, kontext_pipeline, lorweb_folder
from tests.ui.conftest import MakeGate


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnalogyPanel]:
    """The room with a catalogue of four edits and one example of each on the map, so that the tests stay quick."""
    sessions = Sessions(Settings(tmp_path_factory.mktemp("rooms")))
    with pytest.MonkeyPatch.context() as patch, gr.Blocks():
        patch.setattr(models, "catalogue", partial(tuple, ("badge", "invert", "night", "tint")))
        patch.setattr(models, "MAPPED", 1)
        patch.setattr(atlas, "umap_layout", pca)  # umap itself is tested where it lives; here it would compile
        with gr.Tab("Analogy") as tab:
            made = AnalogyPanel(Shared(sessions, WarmUp(()), gr.State(""), gr.State(0), gr.State(0)))
        made.wire(tab)
        yield made


@pytest.fixture
def token(panel: AnalogyPanel) -> str:
    """A visitor who has opened the room."""
    token = panel.room.shared.sessions.enter(None)[0].token
    for _ in panel.on_open(token):
        pass
    return token


def drawn(panel: AnalogyPanel, token: str) -> Image.Image:
    """b' as the page shows it at last."""
    found: list[Image.Image] = [u[panel.pictures.b2] for u in panel.on_version(token) if panel.pictures.b2 in u]
    return found[-1]


def last(updates: Iterator[Any]) -> Any:
    *_, found = updates
    return found


def apart(first: Image.Image, second: Image.Image) -> float:
    return float(np.abs(np.asarray(first, float) - np.asarray(second, float)).mean())


def test_the_room_opens_on_a_living_analogy(panel: AnalogyPanel, gate: MakeGate) -> None:
    token = panel.room.shared.sessions.enter(None)[0].token
    assert last(panel.on_open("")) == {
        panel.pictures.state: last(panel.on_open(""))[panel.pictures.state],
        panel.early: True,
    }
    updates = last(panel.on_token(token, True))
    assert len(updates[panel.pictures.strip]) == len(panel.room.models.names)
    first = gate(Drawing, "_step")
    frames = []
    for update in panel.on_version(token):
        if panel.pictures.b2 in update:
            frames.append(update[panel.pictures.b2])
            first.open()  # it goes on once its first picture is shown
    assert len(frames) >= 2  # it forms step by step
    said = last(panel.on_version(token))[panel.pictures.state]
    assert float(said.split(" dB")[0].rpartition(">")[2]) > 24


def test_a_page_loaded_again_shows_what_was_left(panel: AnalogyPanel, token: str) -> None:
    panel.space.on_gain(3, token, 0.5)
    panel.space.on_field("strength", token, 1.2)
    session = panel.room.session(token)
    updates = last(panel.on_open(token))
    assert len(updates[panel.pictures.strip]) == len(panel.room.models.names)
    assert tuple(updates[slot] for slot in panel.pictures.slots) == (*session.pictures, session.truth)
    gains = [updates[gain] for gain in panel.space.gains]
    assert [gain["visible"] for gain in gains] == [i < 20 for i in range(len(gains))]
    assert gains[3]["value"] == 0.5
    assert updates[panel.space.strength] == 1.2
    assert updates[panel.room.version] == session.version
    assert panel.pictures.strip not in last(panel.on_open(token, True))


@pytest.mark.parametrize("seed", [-1, 10**30, None, float("nan"), "7"])
def test_a_seed_that_is_none_is_refused(panel: AnalogyPanel, token: str, seed: Any) -> None:
    with pytest.raises(gr.Error, match="seed"):
        panel.space.on_field("seed", token, seed)
    assert panel.room.session(token).seed == 0


def test_sliders_move_b2(panel: AnalogyPanel, token: str) -> None:
    before = drawn(panel, token)
    mix = panel.room.mixed(panel.room.session(token))
    strongest = int(mix.mean(0).argmax())
    panel.space.on_gain(strongest, token, 0.0)
    panel.space.on_field("renormalise", token, True)
    muted = panel.room.mixed(panel.room.session(token))
    assert not muted[:, strongest].any()
    np.testing.assert_allclose(muted.sum(-1), 1, rtol=1e-4)
    assert apart(drawn(panel, token), before) > 1
    panel.space.on_reset(token)
    assert drawn(panel, token).tobytes() == before.tobytes()
    panel.space.on_field("strength", token, 0.0)
    assert apart(drawn(panel, token), before) > 1


def test_the_way_ends_at_the_other_edit(panel: AnalogyPanel, token: str) -> None:
    with pytest.raises(gr.Error):
        last(panel.space.on_film(token))
    panel.space.on_second(token, "invert", 0)
    film = last(panel.space.on_film(token))
    assert [caption for _, caption in film] == ["0%", "25%", "50%", "75%", "100%"]
    truth = panel.room.ready(("invert",), 0)[3]
    session = panel.room.session(token)
    assert apart(film[0][0], drawn(panel, token)) < 1e-3  # a level of one pixel, where sums round otherwise
    assert apart(film[-1][0], truth) < 0.5 * apart(session.pictures[2], truth)  # type: ignore[arg-type]
    t, version = panel.space.on_frame(token, SimpleNamespace(index=4))  # type: ignore[arg-type]
    assert (t, version) == (1.0, panel.room.session(token).version)
    assert apart(drawn(panel, token), film[-1][0]) < 1e-3


def test_a_click_on_the_map_drives_the_sliders(panel: AnalogyPanel, token: str) -> None:
    for layout in ("PCA", "UMAP"):
        update = last(panel.atlas.on_map(token, layout))
        assert update["value"]["points"] == len(panel.room.models.names)
        assert layout in update["note"]
    point = {"how": "click", "ids": [panel.room.models.names.index("night")]}
    event: Any = SimpleNamespace(_data=point)
    found = panel.atlas.on_point(token, MOVES, event)
    assert found[-4:-2] == ["night", 1.0]
    assert panel.room.session(token).t == 1
    *_, brought = panel.atlas.on_point(token, BRINGS, event)
    assert brought == panel.room.session(token).version
    assert panel.room.session(token).task == ("night",)
    with pytest.raises(gr.Error):
        panel.atlas.on_point(token, MOVES, SimpleNamespace(_data={"how": "click", "ids": [10**6]}))  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["peft", "diffusers", "kohya"])
def test_a_saved_analogy_reloads_and_gives_the_same_picture(panel: AnalogyPanel, token: str, format: str) -> None:
    panel.space.on_gain(3, token, 0.5)
    panel.space.on_field("strength", token, 1.2)
    before = drawn(panel, token)
    updates = last(panel.keep.on_save(token, 0, format))
    basis = panel.room.models.get().basis.basis
    assert f"rank {basis.size * basis.rank}," in updates[panel.keep.saved]
    assert "100.00%" in updates[panel.keep.saved]
    again = open_adapter(updates[panel.keep.download]["value"])
    model = panel.room.models.embedded()
    assert apart(model.draw_loras(panel.room.session(token).seen, [(again, 1.0)]), before) < 0.01


def test_a_cut_analogy_says_what_it_keeps(panel: AnalogyPanel, token: str) -> None:
    said = last(panel.keep.on_save(token, 8, "peft"))[panel.keep.saved]
    assert "rank 8" in said
    assert 80 < float(said.split("kept energy ")[1].split("%")[0]) < 100


def test_analogy_and_basis_open_in_compose(panel: AnalogyPanel, token: str) -> None:
    workspace = panel.room.shared.workspace(token)
    panel.keep.on_add(token, 4)
    assert workspace.entries[0].verdict.verdict == "ok"
    assert workspace.entries[0].adapter.rank == 4
    panel.keep.on_open(token, 5)
    assert len(workspace.entries) == 5
    assert len({entry.sha256 for entry in workspace.entries}) == 5
    assert len(workspace.units().table) == 5 * 4 * 49
    assert workspace.compose().report.rank == 20


def test_plain_loras_stand_beside(panel: AnalogyPanel, token: str) -> None:
    basis = panel.room.models.get().basis.basis
    row = last(panel.beside.on_draw(token, 4))["value"]
    assert [caption.split(":")[0] for _, caption in row] == [
        "no adapter", "one mix", "rank 4", f"rank {basis.size * basis.rank}",
    ]  # fmt: skip
    figures = [float(caption.split(": ")[1].removesuffix(" dB")) for _, caption in row]
    assert figures[3] == max(figures)


def test_loras_of_the_workspace_stand_beside_too(panel: AnalogyPanel, token: str) -> None:
    panel.keep.on_add(token, 80)  # all of this analogy: what the fourth column draws
    room = panel.room.shared.workspace(token)
    room.add(Source(path="loom:math"))  # a text adapter, which does not fit
    assert len(room.entries) == 2
    row = last(panel.beside.on_draw(token, 4))["value"]
    assert len(row) == 5
    assert row[4][1].startswith(room.entries[0].adapter.name)
    assert apart(row[4][0], row[3][0]) < 1


def test_own_pictures_and_paint(panel: AnalogyPanel, token: str) -> None:
    picture = Image.new("RGBA", (90, 30))
    truth, version = panel.pictures.on_pictures(token, picture, picture, picture)
    assert (truth, panel.room.session(token).version) == (None, version)
    assert panel.room.session(token).pictures[0].getpixel((0, 0)) == (255, 255, 255)  # type: ignore[union-attr]
    assert drawn(panel, token).size == (64, 64)
    painted, _, _ = panel.pictures.on_painted(2, token, {"composite": Image.new("RGBA", (8, 8), "red")})
    assert painted.getpixel((0, 0)) == (255, 0, 0)
    panel.pictures.on_pictures(token, None, picture, picture)
    assert drawn(panel, token) is None
    with pytest.raises(gr.Error):
        panel.pictures.on_world(token, "rot90", "no such edit", 0)


def test_two_visitors_who_draw_at_once_get_their_own_pictures(panel: AnalogyPanel, token: str) -> None:
    other = panel.room.shared.sessions.enter(None)[0].token
    panel.pictures.on_world(other, "invert", "", 3)
    alone = [drawn(panel, who) for who in (token, other)]
    found: dict[str, list[Image.Image]] = {token: [], other: []}
    threads = [
        threading.Thread(target=lambda who=who: found[who].extend(drawn(panel, who) for _ in range(3)))
        for who in (token, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for who, picture in zip((token, other), alone, strict=True):
        assert {drawing.tobytes() for drawing in found[who]} == {picture.tobytes()}
        assert drawn(panel, who).tobytes() == picture.tobytes()


def test_another_model_is_opened_after_its_terms(panel: AnalogyPanel, token: str, tmp_path: Path) -> None:
    pipeline = kontext_pipeline()
    pipeline.save_pretrained(tmp_path / "base")
    basis = lorweb_folder(tmp_path / "lorweb", pipeline.transformer, clip_folder(tmp_path / "clip")).parent
    base, other = str(tmp_path / "base"), panel.other
    assert "not stated" in other.on_named(token, base, str(basis), "")
    form = KontextForm(base, str(basis), "", False, "none", False, "make it blue", 2.5, 64)
    with pytest.raises(gr.Error, match=r"tick the box"):
        last(other.on_open(token, form))
    updates = last(other.on_open(token, replace(form, accept=True)))
    assert [updates[gain]["visible"] for gain in panel.space.gains].count(True) == 4
    panel.space.on_field("steps", token, 2)
    blue = drawn(panel, token)
    assert blue.size == (64, 64)
    other.on_told(token, "a red house", 2.5, 64)
    assert drawn(panel, token).tobytes() != blue.tobytes()
    other.on_back(token)
    assert panel.room.model(panel.room.session(token)) is panel.room.models.embedded()


def test_a_shared_studio_opens_no_other_models(tmp_path: Path) -> None:
    sessions = Sessions(Settings(tmp_path, is_local=False))
    with gr.Blocks():
        shared = AnalogyPanel(Shared(sessions, WarmUp(()), gr.State(""), gr.State(0), gr.State(0)))
    token = sessions.enter(None)[0].token
    with pytest.raises(gr.Error) as caught:
        shared.other.on_named(token, "/etc", "", "")
    assert "shared" in caught.value.message
