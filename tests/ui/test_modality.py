"""The Modalities room: handlers as plain functions, and what a visitor may not do."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from bench.phi4 import Phi4, write_checkpoint
from studio.audio.speech import RATE
from studio.core.errors import LoomError
from studio.mixture.world import IMAGE_QUESTIONS, Sight, picture
from studio.session.store import Settings
from studio.ui.route.modalities import markup as html
from studio.ui.route.modalities.folder import opened
from studio.ui.route.modalities.page import ModalityPanel, decided, example_of, inputs_of, measured, shown
from studio.ui.shell.page import Page, build


@pytest.fixture(scope="module")
def room(page: Page) -> ModalityPanel:
    return page.panel(ModalityPanel)


@pytest.fixture(scope="module")
def token(page: Page) -> str:
    return page.shared.sessions.enter(None)[0].token


STARS = Sight(2, "red", "star", "white")


def last(updates: object) -> dict[object, object]:
    *_, found = updates  # type: ignore[misc]
    return found


def test_a_first_visit_sees_a_picture_and_its_answer(room: ModalityPanel, token: str) -> None:
    updates = list(room.on_open(token, None))
    assert isinstance(updates[0][room.image], Image.Image)
    assert "lamp lit'>vision" in updates[0][room.lamps]
    assert "two red stars on white" in updates[-1][room.answer]
    assert list(room.on_open(token, shown(STARS, 1)))[-1] == {room.state: ""}


def test_the_lamps_follow_the_inputs_and_the_override(room: ModalityPanel) -> None:
    image, sound = shown(STARS, 1), room.on_make("four", 0)[0]
    lit, asked = {}, {}
    for name, given in {
        "text": (None, None),
        "image": (image, None),
        "audio": (None, sound),
        "both": (image, sound),
    }.items():
        question, lamps, table = room.on_given(IMAGE_QUESTIONS["color"], *given, "follow the rule")
        asked[name] = question if isinstance(question, str) else "as it was"
        lit[name] = (
            lamps.count("lamp lit"),
            lamps.partition("lamp lit'>")[2].partition("<")[0],
            table.count("class=lit"),
        )
    assert lit == {
        "text": (1, "base alone", 1),
        "image": (1, "vision", 1),
        "audio": (1, "speech", 1),
        "both": (1, "vision", 1),
    }
    assert asked == {
        "text": "What is two plus five?",
        "image": "as it was",
        "audio": "What do you hear?",
        "both": "Answer the question you hear.",
    }
    own, lamps, table = room.on_given("My own?", image, None, "both, summed")
    assert not isinstance(own, str)
    assert (lamps.count("lamp lit"), table.count("class=lit")) == (2, 0)
    assert "you forced it" in lamps
    with pytest.raises(gr.Error):
        room.on_given("", None, None, "smell")


def test_asking_writes_the_decision_down(room: ModalityPanel, token: str) -> None:
    image, question = shown(STARS, 3), IMAGE_QUESTIONS["color"]
    found = last(room.on_ask(token, question, image, None, "follow the rule", []))
    assert "<p>red</p>" in found[room.answer]
    assert found[room.lines] == [f"image -> vision (rule 1): {question} — red"]
    again = last(room.on_ask(token, "What is two plus five?", None, None, "follow the rule", found[room.lines]))
    assert again[room.lines][0] == "text -> base alone (rule 3): What is two plus five? — seven"
    assert again[room.log].count("<li>") == 2


def test_every_way_marks_the_rules_own(room: ModalityPanel, token: str) -> None:
    sound = room.on_make("four", 0)[0]
    said = last(room.on_compare(token, "What do you hear?", None, sound, "base alone", []))[room.answer]
    assert said.count("<tr") == 4
    assert "<tr class=lit><th scope='row'>speech</th><td>four</td>" in said


def test_a_picture_survives_being_shown_large() -> None:
    small = example_of("?", shown(STARS, 5), None).image
    np.testing.assert_array_equal(small, picture(STARS, 5))
    wide = Image.new("RGBA", (300, 100), "blue")
    found = example_of("?", wide, None).image
    assert found is not None
    assert found.shape == (64, 64, 3)


def test_what_a_visitor_gives_is_checked(room: ModalityPanel, token: str) -> None:
    assert inputs_of(None, None).mode == "text"
    with pytest.raises(LoomError, match="no question"):
        example_of("  ", None, None)
    with pytest.raises(LoomError, match="no adapter"):
        decided(inputs_of(None, None), "'><script>")
    with pytest.raises(gr.Error, match="cannot be seen"):
        room.on_draw("one", "red", "star", "red", 0)
    with pytest.raises(gr.Error, match="Nothing was painted"):
        room.on_painted(None)
    with pytest.raises(gr.Error, match="silent"):
        last(room.on_ask(token, "What?", None, (RATE, np.zeros(100, np.int16)), "speech", []))
    with pytest.raises(gr.Error, match="away too long"):
        last(room.on_ask("nobody", "What?", None, None, "speech", []))
    hostile = html.answer("<b>?</b>", "<script>")
    assert "<script>" not in hostile
    assert "<b>" not in hostile


def test_a_painting_goes_on_white(room: ModalityPanel) -> None:
    drawn = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    drawn.putpixel((0, 0), (255, 0, 0, 255))
    made = room.on_painted({"composite": drawn})
    assert (made.getpixel((0, 0)), made.getpixel((5, 5))) == ((255, 0, 0), (255, 255, 255))


def test_the_measured_matrix_is_the_files(tmp_path: Path) -> None:
    assert "not in this copy" in measured(tmp_path / "nothing.json")
    path = Path(__file__).parents[2] / "assets" / "mixture" / "results.json"
    found = json.loads(path.read_text())
    shown_matrix = measured(path)
    mean = np.mean([seed["matrix"]["image"]["rule"] for seed in found["seeds"]])
    assert f">{100 * mean:.0f}</td>" in shown_matrix
    assert shown_matrix.count("<tr>") == 5


def test_the_adapters_of_a_folder_side_by_side(room: ModalityPanel, token: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "phi", Phi4(layers=2, width=24, hidden=16, heads=6, key_heads=2, vision=2, speech=3))
    said = str(last_text(room.folder.on_show(token, str(tmp_path / "phi"), False)))
    assert said.count("class='heat wide'") == 3
    assert "model.layers.1.mlp.down_proj" in said
    split = last_text(room.folder.on_show(token, str(tmp_path / "phi"), True))
    assert "model.layers.0.self_attn.k_proj" in split
    own = last_text(room.folder.on_show(token, "", False))
    assert "vision norm" in own
    with pytest.raises(gr.Error, match="not there"):
        last_text(room.folder.on_show(token, str(tmp_path / "nothing"), False))
    with pytest.raises(LoomError, match="holds no adapters by modality"):
        opened(Path(__file__).parents[2] / "assets" / "text" / "adapters" / "math")


def test_the_adapters_of_a_folder_merge_in_compose(page: Page, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "phi", Phi4(layers=1, width=24, hidden=16, heads=6, key_heads=2, vision=2, speech=3))
    session, _ = page.shared.sessions.enter(None)
    token, workspace = session.token, session.workspace
    for name in ("vision", "speech"):
        last(page.compose.library.on_add(token, f"{tmp_path / 'phi'}#{name}"))
    report = workspace.compose().report
    assert report.rank == 5
    assert abs(report.cosines[0][1]) < 0.5


def last_text(updates: object) -> str:
    *_, found = updates  # type: ignore[misc]
    return str(found)


def test_a_shared_studio_opens_no_paths(tmp_path: Path) -> None:
    page = build(Settings(tmp_path / "rooms", is_local=False))
    with gr.Blocks():
        room = ModalityPanel(page.shared)
    assert room.folder.path.visible is False
    token = page.shared.sessions.enter(None)[0].token
    assert "vision norm" in last_text(room.folder.on_show(token, str(tmp_path / "phi"), False))
