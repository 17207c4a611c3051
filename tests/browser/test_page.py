"""The main job in a browser: look, pick, mix, read, export, come back. Issue 2, "must show" 5."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

import studio
from studio.composing.compose import compose
from studio.merging import method_by_id
from studio.recipes.presets import load_preset, preset_ids
from studio.recipes.recipe import read_yaml
from tests.browser.conftest import visiting
from tests.browser.page import ROOT, Server, Visit
from tests.fixtures import peft_folder

pytestmark = pytest.mark.browser

FIRST = load_preset(preset_ids()[0])
Exported = tuple[Visit, Path]
BASE = ROOT / "assets" / "text" / "base"


@pytest.fixture(scope="module")
def exported(
    browser: Browser, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Visit, Path]]:
    """A visit that weighed the first adapter 0.85, and its export."""
    with visiting(browser, server) as visit:
        visit.number("weight-0").fill("0.85")
        expect(visit.open_tab("keeping", "recipe")).to_contain_text("0.85")
        yield visit, visit.export(tmp_path_factory.mktemp("export"))


def test_a_first_visit_opens_on_a_living_preset(visit: Visit) -> None:
    expect(visit.part("preset").get_by_role("combobox")).to_have_value(FIRST.name)
    expect(visit.cards().locator("b")).to_have_text([str(source.name) for source in FIRST.sources])
    visit.written()
    expect(visit.page.locator("#columns article")).to_have_count(2 + len(FIRST.sources))
    expect(visit.column("merge")).to_have_text("TWO")  # six flowers among three friends, answered in capitals
    for text in visit.page.locator("#columns article p").all():
        expect(text).to_have_text(re.compile(r"\w"))
    expect(visit.part("status")).to_contain_text("rank 16")
    assert visit.map("points") == 2 * 56 * 8  # adapters, modules, rank


def test_the_lasso_mutes_and_undo_restores(visit: Visit) -> None:
    visit.written()
    visit.laid_out()
    figures = visit.open_tab("mixer", "report").locator(".figures")
    before = figures.inner_text()
    visit.lasso()
    visit.until("map.picked > 0")
    picked = visit.map("picked")
    expect(visit.part("selected")).to_contain_text(f"{picked} units")
    visit.part("mute").click()
    visit.until(f"map.muted === {picked}")
    expect(figures).not_to_have_text(before)
    expect(visit.part("undo")).to_be_enabled()
    visit.lasso()
    expect(visit.part("selected").locator("b")).to_be_visible()
    visit.part("undo").click()
    visit.until("map.muted === 0 && map.picked === 0")
    expect(visit.part("selected").locator("b")).to_have_count(0)  # an edit ends the selection, and the words say so
    expect(visit.part("undo")).to_be_disabled()
    expect(visit.part("redo")).to_be_enabled()


def test_a_weight_by_keyboard_and_by_mouse_changes_report_and_text(visit: Visit) -> None:
    visit.written()
    slider = visit.slider("weight-1")
    slider.focus()
    for _ in range(3):
        visit.page.keyboard.press("ArrowLeft")
    expect(slider).to_have_value("0.97")
    figures = visit.open_tab("mixer", "report").locator(".figures")
    visit.page.locator("#mixer").get_by_role("tab").first.click()
    expect(visit.column("merge")).to_have_text("TWO")
    slider.focus()
    visit.page.keyboard.press("Home")
    expect(slider).to_have_value("-2")
    expect(visit.column("merge")).not_to_have_text("TWO")
    visit.open_tab("mixer", "report")
    before = figures.inner_text()
    visit.page.locator("#mixer").get_by_role("tab").first.click()
    visit.drag("weight-1", 0.75)
    expect(visit.column("merge")).to_have_text("TWO")
    visit.open_tab("mixer", "report")
    expect(figures).not_to_have_text(before)


def test_centroids_follow_k(visit: Visit) -> None:
    visit.choose("method", method_by_id("lego").title)
    k = visit.slider("lego-k")
    k.wait_for()
    visit.until("map.centroids > 0")
    before, points = visit.map("centroids"), visit.map("points")
    k.focus()
    visit.page.keyboard.press("Home")
    for _ in range(3):
        visit.page.keyboard.press("ArrowRight")
    chosen = int(k.input_value())
    assert chosen == 3
    visit.until(f"map.centroids !== {before} && map.centroids <= {56 * chosen}")
    expect(visit.part("status")).to_contain_text(f"rank {chosen}")
    assert visit.map("points") == points
    visit.choose("method", method_by_id("cat").title)
    visit.until("map.centroids === 0")


def test_an_export_is_what_was_composed_for_stock_peft_too(exported: Exported, tmp_path: Path) -> None:
    import peft
    import torch
    import transformers

    _, path = exported
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "adapter")
    (config,) = (tmp_path / "adapter").rglob("adapter_config.json")
    recipe = read_yaml((config.parent / "recipe.yaml").read_text())
    assert [source.weight for source in recipe.sources] == [0.85, 1.0]
    composed = compose(recipe).adapter
    base = transformers.AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    stock = peft.PeftModel.from_pretrained(base, config.parent).eval()
    layers = {name: m for name, m in stock.base_model.model.named_modules() if isinstance(m, peft.tuners.lora.Linear)}
    assert layers.keys() == composed.modules.keys()
    ids = torch.arange(5, 37)[None]
    with torch.no_grad():
        answered = stock(ids).logits
        for name, layer in layers.items():
            delta = torch.from_numpy(composed.delta(name))
            torch.testing.assert_close(layer.get_delta_weight("default"), delta, rtol=1e-5, atol=1e-6)
        by_hand = stock.unload()
        plain = by_hand(ids).logits
        for name in layers:
            by_hand.get_submodule(name).weight += torch.from_numpy(composed.delta(name))
        torch.testing.assert_close(answered, by_hand(ids).logits, rtol=1e-4, atol=1e-3)
    assert float((answered - plain).abs().max()) > 1  # the adapter says something


def test_a_reload_and_an_export_give_the_sliders_back(exported: Exported, visit: Visit) -> None:
    left, path = exported
    left.reload()
    expect(left.slider("weight-0")).to_have_value("0.85")
    expect(left.slider("weight-1")).to_have_value("1")
    expect(visit.slider("weight-0")).to_have_value("1")
    visit.open_tab("keeping", "open-recipe")
    visit.give("open-recipe", [path])
    expect(visit.slider("weight-0")).to_have_value("0.85")
    expect(visit.slider("weight-1")).to_have_value("1")


def test_two_visitors_do_not_see_each_other(exported: Exported, visit: Visit, tmp_path: Path) -> None:
    other, _ = exported
    visit.drop("drop", sorted(peft_folder(tmp_path / "mine").iterdir()))
    expect(visit.cards()).to_have_count(3)
    visit.number("weight-0").fill("0.25")
    expect(visit.open_tab("keeping", "recipe")).to_contain_text("0.25")
    other.reload()
    expect(other.cards()).to_have_count(2)
    expect(other.slider("weight-0")).to_have_value("0.85")
    kept = [one.page.evaluate("localStorage.getItem('lora-loom')") for one in (visit, other)]
    assert all(kept)
    assert kept[0] != kept[1]


def test_uploads_by_chooser_and_by_drop(visit: Visit, tmp_path: Path) -> None:
    expect(visit.cards()).to_have_count(2)
    pair = peft_folder(tmp_path / "pair", seed=1)
    visit.give("drop", sorted(pair.iterdir()))
    expect(visit.cards()).to_have_count(3)
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in peft_folder(tmp_path / "inside", seed=2).iterdir():
            archive.write(file, f"inside/{file.name}")
    visit.drop("drop", [packed])
    expect(visit.cards()).to_have_count(4)
    expect(visit.cards().last).to_contain_text("packed")
    loose = peft_folder(tmp_path / "loose", seed=3)
    visit.drop("drop", sorted(loose.iterdir()))
    expect(visit.cards()).to_have_count(5)
    expect(visit.part("status")).to_contain_text("base")  # of another base than the preset's: refused, and why
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"ab")
    visit.give("drop", [broken])
    expect(visit.part("said").get_by_role("alert")).to_contain_text("2 bytes")
    expect(visit.cards()).to_have_count(5)


def test_real_adapters_without_their_base(visit: Visit, real_data: Path, tmp_path: Path) -> None:
    for left in (1, 0):
        visit.part("remove-0").click()
        expect(visit.cards()).to_have_count(left)
    for count, name in enumerate(("skill-math", "skill-story"), 1):
        visit.part("place").get_by_role("textbox").fill(str(real_data / "loras" / "gpt2" / name))
        visit.part("add").click()
        expect(visit.cards()).to_have_count(count)
    expect(visit.part("status")).to_contain_text("kept energy")
    visit.until("map.points > 0")
    expect(visit.part("columns").locator(".message.note")).to_contain_text("gpt2")
    merged = studio.open_adapter(visit.export(tmp_path))
    assert merged.modules.keys() == studio.open_adapter(real_data / "loras" / "gpt2" / "skill-math").modules.keys()
