"""The page's handlers as plain functions, its wiring, and what two visitors must never share."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers

from studio.core.errors import LoomError
from studio.merging import methods
from studio.merging.lego import cluster, pool_of
from studio.merging.registry import Draw
from studio.recipes.uploads import receive
from studio.session.workspace import MAX_SOURCES
from studio.ui.compose.units import clusters_of
from studio.ui.shell.launch import keep_token_private
from studio.ui.shell.page import Page, build
from studio.ui.shell.panel import as_message
from tests.contract.contract import UNSIGNED
from tests.fixtures import peft_folder


@pytest.fixture
def token(page: Page, tmp_path: Path) -> str:
    """A visitor with two random adapters in the workspace."""
    session, _ = page.shared.sessions.enter(None)
    token, workspace = session.token, session.workspace
    for seed, name in enumerate(("one", "two")):
        last(page.compose.library.on_add(token, str(peft_folder(tmp_path / name, seed=seed))))
    assert len(workspace.units().table.adapters) == 2  # the map has been drawn
    return token


def last(updates: object) -> dict[object, object]:
    """The last of what a handler yields."""
    *_, found = updates  # type: ignore[misc]
    return found


def test_a_weight_reaches_the_report(page: Page, token: str) -> None:
    before = last(page.compose.mixer.on_version(token))[page.compose.mixer.status]
    version = page.compose.mixer.on_weight(0, token, -1.5)
    assert version == page.shared.workspace(token).version
    found = last(page.compose.mixer.on_version(token))
    assert found[page.compose.mixer.status] == before  # cat: the rank and the kept energy stay, the norm does not
    assert page.shared.workspace(token).compose().report.sources[0].weight == -1.5


@pytest.mark.parametrize(
    ("typed", "weight", "shown"),
    [(0.5, 0.5, None), (1e9, 15, 15), (3, 3, 3), (None, 0, 0), (float("nan"), 0, 0), (-1e9, -15, -15)],
)
def test_the_slider_shows_what_the_recipe_has(
    page: Page, token: str, typed: object, weight: float, shown: float | None
) -> None:
    slider = page.compose.mixer.weights[0]
    updates = page.compose.mixer.on_slid(slider, partial(page.compose.mixer.on_weight, 0), token, typed, False)
    assert page.shared.workspace(token).recipe.sources[0].weight == weight
    assert updates.get(slider, {}).get("value") == shown
    assert abs(weight) <= 2 or updates[slider]["maximum"] == 15
    assert slider not in page.compose.mixer.on_slid(slider, partial(page.compose.mixer.on_weight, 0), token, 14.0, True)


def test_a_message_shows_a_strangers_name_as_text() -> None:
    assert as_message(LoomError("no <img src=x> & co")).message == "No &lt;img src=x&gt; &amp; co."


def test_a_method_brings_its_own_knobs(page: Page, token: str) -> None:
    updates = page.compose.mixer.on_method(token, "lego")
    assert (
        "Merging by lego" in updates[page.compose.mixer.status]
    )  # not the former method's figures under this one's name
    assert updates[page.compose.mixer.groups["lego"]]["visible"] is True
    assert updates[page.compose.mixer.groups["svd"]]["visible"] is False
    page.compose.mixer.on_knob("lego", "k", token, 3)
    assert page.shared.workspace(token).compose().report.rank == 3
    page.compose.mixer.on_knob("svd", "rank", token, 2)  # of a method that is not chosen: nothing
    assert dict(page.shared.workspace(token).recipe.knobs) == {"k": 3}


def test_a_refused_merge_is_a_message_and_the_page_goes_on(page: Page, token: str) -> None:
    page.compose.mixer.on_method(token, UNSIGNED[0])
    page.compose.mixer.on_weight(0, token, -1.0)
    assert "negative" in str(last(page.compose.mixer.on_version(token))[page.compose.mixer.report])
    page.compose.mixer.on_weight(0, token, 1.0)
    assert "Kept energy" in str(last(page.compose.mixer.on_version(token))[page.compose.mixer.report])


@pytest.mark.parametrize("id", methods())
def test_a_weight_slider_goes_as_far_as_its_method_allows(page: Page, token: str, id: str) -> None:
    lowest = -1 if methods()[id].signed else 0
    page.compose.mixer.on_method(token, id)
    slider, workspace = page.compose.mixer.weights[0], page.shared.workspace(token)
    assert page.compose.mixer.controls(workspace)[slider]["minimum"] == 2 * lowest
    *weights, scale = page.compose.mixer.on_wide(token, True)
    assert {update["minimum"] for update in weights} == {15 * lowest}
    assert scale["minimum"] == -15
    page.compose.mixer.on_slid(slider, partial(page.compose.mixer.on_weight, 0), token, -9.0, True)
    assert workspace.recipe.sources[0].weight == 9 * lowest


def test_errors_say_what_why_and_what_next(page: Page, token: str, tmp_path: Path) -> None:
    said = last(page.compose.library.on_add(token, str(tmp_path / "nothing")))[page.compose.library.status]
    assert "not there" in said
    assert "Hub id" in said
    with pytest.raises(gr.Error) as caught:
        page.compose.selection.on_mute(token)
    assert "No units" in caught.value.message
    assert "lasso" in caught.value.message


def test_weights_by_module_reach_the_recipe_and_back(page: Page, token: str) -> None:
    workspace = page.shared.workspace(token)
    table = page.compose.by_module.on_grouping(token, "type")["value"]
    import pandas

    rows = [[*row[:1], 0.25, row[2]] if i == 0 else row for i, row in enumerate(table["data"])]
    page.compose.by_module.on_table(token, "type", pandas.DataFrame(rows, columns=table["headers"]))
    changed = {
        workspace.recipe.sources[0].weight_for(name, workspace.recipe.weights[0]) for name in workspace.module_names()
    }
    assert changed == {0.25, workspace.recipe.weights[0]}
    assert not workspace.recipe.sources[1].modules
    page.compose.by_module.on_reset(token, "type")
    assert not workspace.recipe.sources[0].modules


def test_the_lasso_mutes_and_undo_restores(page: Page, token: str) -> None:
    workspace = page.shared.workspace(token)
    picked = page.compose.selection.on_pick(token, {"how": "lasso", "ids": [0, 2, 5]})  # type: ignore[arg-type]
    assert "3 units" in picked[1]
    page.compose.selection.on_mute(token)
    assert [i for i, factor in enumerate(workspace.factors()) if factor == 0] == [0, 2, 5]
    assert (
        "after 3 edits of units" in last(page.compose.mixer.on_version(token))[page.compose.mixer.status]
    )  # what the figures are of
    page.bar.on_undo(token)
    assert set(workspace.factors()) == {1.0}


@pytest.mark.parametrize("event", [{"how": "lasso", "ids": [10**9]}, {"how": "x", "ids": []}, {"ids": "all"}, None])
def test_a_hostile_selection_is_refused(page: Page, token: str, event: object) -> None:
    with pytest.raises(gr.Error):
        page.compose.selection.on_pick(token, event)  # type: ignore[arg-type]


def test_the_centroids_follow_k(page: Page, token: str) -> None:
    page.compose.mixer.on_method(token, "lego")
    page.compose.mixer.on_knob("lego", "k", token, 2)
    few = page.compose.units.on_version(token)["centroids"]
    page.compose.mixer.on_knob("lego", "k", token, 4)
    assert len(page.compose.units.on_version(token)["centroids"]["x"]["data"]) > len(few["x"]["data"])
    page.compose.mixer.on_method(token, "cat")
    assert page.compose.units.on_version(token)["centroids"] is False


def test_an_export_gives_the_sliders_back_to_another_visitor(page: Page, token: str, tmp_path: Path) -> None:
    page.compose.mixer.on_weight(1, token, 1.25)
    done = last(page.compose.history.on_export(token, "my mix", "float32"))
    written = Path(done[page.compose.history.download]["value"])
    assert written.name == "my mix.zip"
    kept = shutil.copy(written, tmp_path / "kept.zip")
    other = page.shared.sessions.enter(None)[0].token
    with pytest.raises(gr.Error, match="Add it to the library"):  # exports carry no paths of this machine
        page.compose.history.on_open(other, str(kept))
    for name in ("one", "two"):
        last(page.compose.library.on_add(other, str(tmp_path / name)))
    updates = page.compose.history.on_open(other, str(kept))
    assert updates[page.compose.mixer.weights[1]]["value"] == 1.25
    assert updates[page.compose.history.name] == "my mix"


def test_uploads_config_and_weights_dropped_together(page: Page, tmp_path: Path) -> None:
    session, _ = page.shared.sessions.enter(None)
    token, workspace = session.token, session.workspace
    folder = peft_folder(tmp_path / "math", rank=2, alpha=8)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"ab")
    files = [*map(str, sorted(folder.iterdir())), str(broken)]
    updates = last(page.compose.library.on_upload(token, files))
    assert workspace.adapters[0].ranks == (2,)
    assert "broken" in updates[page.compose.library.status]
    assert "2 bytes" in updates[page.compose.library.status]


def test_names_from_files_are_never_html(page: Page, tmp_path: Path) -> None:
    token = page.shared.sessions.enter(None)[0].token
    evil = "<img src=x onerror=alert(1)>"
    peft_folder(tmp_path / "evil", base=evil, modules={evil: (6, 5)})
    last(page.compose.library.on_add(token, str(tmp_path / "evil")))
    cards = page.compose.library.controls(page.shared.workspace(token))
    report = last(page.compose.mixer.on_version(token))
    shown = [
        cards[page.compose.library.cards[0]],
        report[page.compose.mixer.modules],
        report[page.compose.mixer.report],
    ]
    assert "&lt;img" in shown[0]
    assert "&lt;img" in shown[1]
    assert not any("<img" in html for html in shown)


def test_two_visitors_share_nothing(page: Page, token: str) -> None:
    session, is_new = page.shared.sessions.enter(None)
    other, workspace = session.token, session.workspace
    assert is_new
    assert other != token
    assert not workspace.entries
    page.compose.mixer.on_weight(0, token, 0.75)
    assert not workspace.entries
    assert workspace.folder != page.shared.workspace(token).folder


@pytest.mark.parametrize("forged", ["", "../../etc", "x" * 32 + "/..", None, 7])
def test_a_forged_token_gets_a_workspace_of_its_own(page: Page, forged: object) -> None:
    session, is_new = page.shared.sessions.enter(forged)  # type: ignore[arg-type]
    token, workspace = session.token, session.workspace
    assert is_new
    assert token != forged
    assert workspace.folder.parent == page.shared.sessions.settings.root


def test_a_reload_finds_the_workspace_and_a_restart_the_recipe(page: Page, token: str) -> None:
    page.compose.mixer.on_weight(0, token, 0.6)
    stored = page.on_version(token)[page.stored]
    back = page.on_load(stored)
    assert back[page.shared.token] == token
    assert back[page.compose.mixer.weights[0]]["value"] == 0.6
    restarted = build(page.shared.sessions.settings)
    again = restarted.on_load(stored)
    assert again[restarted.compose.mixer.weights[0]]["value"] == 0.6


def test_every_listener_is_private_and_every_control_is_named(page: Page) -> None:
    listeners = page.demo.config["dependencies"]
    assert listeners
    assert {found["api_visibility"] for found in listeners} == {"private"}
    unnamed = [
        block["type"]
        for block in page.demo.config["components"]
        if block["type"] in {"slider", "dropdown", "textbox", "checkbox", "radio", "number"}
        and not block["props"].get("label")
    ]
    assert unnamed == ["slider"] * MAX_SOURCES  # the pool of weights: named when an adapter takes one


def test_the_picture_in_the_readme_is_there() -> None:
    root = Path(__file__).parents[2]
    for picture in re.findall(r"!\[[^]]+\]\(([^)]+)\)", (root / "README.md").read_text(encoding="utf-8")):
        assert 0 < (root / picture).stat().st_size < 500_000


def test_heads_are_carried_from_a_chosen_source(page: Page, token: str, tmp_path: Path) -> None:
    workspace = page.shared.workspace(token)
    assert page.compose.mixer.controls(workspace)[page.compose.mixer.extras]["visible"] is False  # nobody has any
    head = {"base_model.model.score.weight": np.ones((2, 5), np.float32)}
    updates = last(page.compose.library.on_add(token, str(peft_folder(tmp_path / "headed", seed=7, extras=head))))
    assert updates[page.compose.mixer.extras]["visible"] is True
    assert "dropped from headed (1)" in str(last(page.compose.mixer.on_version(token))[page.compose.mixer.report])
    page.compose.mixer.on_extras(token, "headed")
    assert "carried from headed (1)" in str(last(page.compose.mixer.on_version(token))[page.compose.mixer.report])
    assert list(workspace.compose().adapter.extras) == ["score.weight"]


def test_different_bases_need_a_word(page: Page, token: str, tmp_path: Path) -> None:
    last(page.compose.library.on_add(token, str(peft_folder(tmp_path / "foreign", seed=7, base="someone/else"))))
    assert "Allow other bases" in str(last(page.compose.mixer.on_version(token))[page.compose.mixer.status])
    page.compose.mixer.on_field("other_bases", token, True)
    assert "rank" in str(last(page.compose.mixer.on_version(token))[page.compose.mixer.status])


def test_a_shared_studio_sends_no_token_of_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    assert "hf_owner" in str(build_hf_headers())
    keep_token_private()
    assert "hf_owner" not in str(build_hf_headers())


def test_a_base_that_does_not_load_says_so_in_its_place(page: Page, token: str, tmp_path: Path) -> None:
    said = last(page.compose.preview.on_fetch(token, str(tmp_path / "no-base")))
    assert "refused" in said[page.compose.preview.columns]
    assert "no-base" in said[page.compose.preview.columns]
    assert page.shared.workspace(token).recipe.base == str(tmp_path / "no-base")


@pytest.mark.parametrize("form", ["raw", "canonical"])
def test_the_map_shows_the_clusters_of_the_merge(page: Page, token: str, form: str) -> None:
    workspace = page.shared.workspace(token)
    workspace.look(form=form)
    workspace.edit("lego", method="lego", knobs={"k": 3, "form": form})
    workspace.edit_source(0, "weight of one", weight=-0.5)
    units = workspace.units()
    shown = clusters_of(workspace, units, workspace.factors())
    for stack in workspace.sources().stacks(dense=False):
        weights = torch.tensor([workspace.recipe.weights] * len(stack))
        pool = pool_of(stack.pairs, weights, form)
        merged = cluster(pool, 3, feature="joint", restarts=10, seed=Draw(workspace.recipe.seed, stack.names).seed)
        for name, labels in zip(stack.names, merged, strict=True):
            module = [place.name for place in units.table.places].index(name)
            assert shown[units.table.module == module].tolist() == labels.tolist()


def test_an_own_adapter_said_twice_is_added_once(page: Page, token: str) -> None:
    workspace = page.shared.workspace(token)
    for _ in range(2):
        page.compose.library.on_own(token, "loom:math")
    assert [source.path for source in workspace.recipe.sources].count("loom:math") == 1
    with pytest.raises(gr.Error, match="no adapter"):
        page.compose.library.on_own(token, "loom:nothing")


def test_the_speeds_in_the_docs_are_those_measured() -> None:
    root = Path(__file__).parents[2]
    text = (root / "docs" / "reference" / "page.md").read_text(encoding="utf-8")
    rows = json.loads((root / "bench" / "results" / "page.json").read_text())
    assert {row["measure"] for row in rows} == {"start", "slider", "k", "first_text"}
    for row in rows:
        found = f"| {row['target']:,.0f} | {row['cpu']:,.0f} | {row['median']:,.0f} at load {row['load']:.0f} |"
        assert found in text, row["measure"]


def test_one_file_brought_by_several_clicks_at_once_lands_once(tmp_path: Path) -> None:
    weights = peft_folder(tmp_path / "mine") / "adapter_model.safetensors"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: list(receive([weights], tmp_path / "room")), range(24)))
    assert {str(folder) for ((_, folder),) in found} == {str(path) for path in (tmp_path / "room").iterdir()}


def test_a_json_by_itself_is_answered(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    ((name, error),) = receive([tmp_path / "tokenizer.json"], tmp_path / "room")
    assert name == "tokenizer.json"
    assert "says nothing by itself" in str(error)
    weights = peft_folder(tmp_path / "mine") / "adapter_model.safetensors"
    assert len(list(receive([tmp_path / "tokenizer.json", weights], tmp_path / "room"))) == 1  # beside others: no word
