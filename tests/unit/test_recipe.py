"""Recipes: what they mean, where their paths lead, and that nothing hostile gets through."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.core.errors import BadRecipe
from studio.merging import methods
from studio.recipes.presets import load_preset, preset_ids
from studio.recipes.recipe import MAX_BYTES, Recipe, Source, load, parse, placed, read_yaml
from studio.recipes.sources import source_fields


def test_the_text_gives_the_recipe_again() -> None:
    recipe = parse(
        {
            "name": "Zwei Stimmen · 声",
            "sources": [
                {"path": "a", "weight": -0.5, "modules": {"*.mlp.*": 0, "h.1.mlp": 2}},
                {"hub": "owner/name", "units": {"form": "raw", "scale": {"h.0": {3: 0.0, 1: -2}}}},
            ],
            "method": "lego",
            "knobs": {"k": 4, "q": "2", "output_reweighting": False},
            "seed": 7,
            "view": {"prompt": "Once\nupon: a - # time", "scope": "h.1"},
        }
    )
    assert read_yaml(recipe.to_yaml()) == recipe
    assert read_yaml(Recipe().to_yaml()) == Recipe()


@pytest.mark.parametrize("id", methods())
def test_every_knob_travels(id: str) -> None:
    knobs = {knob.name: knob.default for knob in methods()[id].knobs.values()}
    assert read_yaml(parse({"method": id, "knobs": knobs}).to_yaml()).knobs == knobs


def test_last_matching_pattern_wins_and_none_is_the_default() -> None:
    source = Source(path="a", modules={"*": 1, "*.mlp": 2, "h.0.*": 3})
    assert [source.weight_for(name, 9) for name in ("x", "h.1.mlp", "h.0.mlp")] == [1, 2, 3]
    assert Source(path="a").weight_for("x", 0.25) == 0.25
    assert Source(path="a", weight=0).weight_for("x", 0.25) == 0


def test_digest_tells_results_apart_and_nothing_else() -> None:
    base = {"sources": [{"path": "a", "sha256": "0" * 64}], "method": "svd"}
    digest = parse(base).digest()
    moved = [{"path": "elsewhere/a", "sha256": "0" * 64}]
    same = [{"name": "x"}, {"note": "x"}, {"view": {"prompt": "x"}}, {"sources": moved}]
    other = [{"scale": 2}, {"seed": 1}, {"knobs": {"rank": 1}}, {"method": "cat"}, {"sources": [{"path": "a"}]}]
    assert {parse({**base, **fields}).digest() for fields in same} == {digest}
    assert digest not in {parse({**base, **fields}).digest() for fields in other}


# Paths ----------------------------------------------------------------------------------------------------------------


def _paths(recipe: Recipe) -> list[str | None]:
    return [source.path for source in recipe.sources]


def _recipe(*paths: object) -> Recipe:
    return parse({"sources": [{"path": str(path)} for path in paths]})


def test_paths_count_from_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = tmp_path / "r.yaml"
    _recipe("a", "../b", "/c/d", "~/e", "loom:math", "upload:x").save(file)
    assert _paths(load(file)) == [
        str(tmp_path / "a"), str(tmp_path / "../b"), "/c/d", str(tmp_path / "home/e"), "loom:math", "upload:x",
    ]  # fmt: skip


def test_a_drive_of_windows_is_no_scheme_and_no_owner_on_the_hub(tmp_path: Path) -> None:
    _recipe("c:/loras/a").save(tmp_path / "r.yaml")
    assert _paths(load(tmp_path / "r.yaml")) == [str(tmp_path / "c:/loras/a")]
    assert source_fields("C:/a") == {"path": "C:/a"}
    assert source_fields("owner/a") == {"hub": "owner/a"}


@pytest.mark.parametrize("for_others", [True, False])
def test_placed_is_the_inverse_of_load(tmp_path: Path, for_others: bool) -> None:
    recipe = _recipe(tmp_path / "loras/a", tmp_path / "out/b", "loom:math")
    there = placed(recipe, tmp_path / "out", for_others=for_others)
    assert _paths(there) == ["../loras/a", "b", "loom:math"]
    there.save(tmp_path / "out/recipe.yaml")
    (tmp_path / "loras").mkdir()
    found = [Path(path or "").resolve() for path in _paths(load(tmp_path / "out/recipe.yaml"))[:2]]
    assert found == [tmp_path / "loras/a", tmp_path / "out/b"]


def test_an_export_does_not_tell_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "users/ada"
    monkeypatch.setenv("HOME", str(home))
    recipe = _recipe(home / "loras/a", tmp_path / "users/bob/b", "/somewhere/c").changed(base=str(home / "models/m"))
    told = placed(recipe, home / "out", for_others=True)
    assert _paths(told) == ["../loras/a", "b", "c"]
    assert told.base == "m"
    assert _paths(placed(recipe, Path("/elsewhere/out"), for_others=True)) == ["a", "b", "c"]
    kept = placed(recipe, Path("/elsewhere/out"), for_others=False)
    assert _paths(kept) == [str(home / "loras/a"), str(tmp_path / "users/bob/b"), "/somewhere/c"]
    assert kept.base == str(home / "models/m")


def test_a_download_carries_no_way_between_temporary_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told = placed(
        _recipe(tmp_path / "uploads/a", tmp_path / "export/b", "loom:math"), tmp_path / "export", for_others=True
    )
    assert _paths(told) == ["a", "b", "loom:math"]


# Hostile --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "just words", "1", "~", "\x00", "- a\n- b", "{", "a: b: c", "!!python/object/apply:os.system [echo]",
        "format: 2", "format: [1]", "format: 1\nunknown: 1", "method: average", "method: [cat]", "seed: -1",
        "seed: 1.5", "seed: 99999999999", "scale: .nan", "scale: .inf", "scale: 1e999", "scale: loud", "sources: a",
        "sources: [a]",
        "sources: [{}]", "sources: [{path: a, hub: b/c}]", "sources: [{path: 5}]", "sources: [{path: a, weight: .nan}]",
        "sources: [{path: a, weight: 101}]", "sources: [{path: a, modules: {x: .inf}}]", "knobs: {k: 4}", "knobs: []",
        "{method: svd, knobs: {rank: 1e99}}", "{method: svd, knobs: {rank: true}}", "{method: svd, knobs: {rank: [1]}}",
        "{method: svd, knobs: {rank: -1}}", "{method: lego, knobs: {output_reweighting: 1}}",
        "{method: ties, knobs: {density: .nan}}", "view: {temperature: 99}", "name: 2020-13-45", "? [a, b]\n: c",
        "? {a: b}\n: c", "{method: svd, knobs: {rank: " + "9" * 5000 + "}}", "1: 2",
        "a: &x [1]\nb: *x", "a: &a [1,1]\nb: &b [*a,*a]\nc: [*b,*b]", "[" * 20000, "{a: " * 5000, "- " * 20000 + "a",
        "x" * (MAX_BYTES + 1),
    ],
    ids=lambda text: text[:30].replace("\n", "/").replace("\x00", "nul"),
)  # fmt: skip
def test_hostile_texts_are_bad_recipes(text: str) -> None:
    with pytest.raises(BadRecipe) as caught:
        read_yaml(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [*Recipe.model_fields, "surprise"]


@settings(max_examples=300)
@given(content=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4) | JSON)
def test_anything_is_a_recipe_or_a_bad_one(content: Any) -> None:
    _is_recipe_or_refused(content)


@settings(max_examples=300)
@given(
    source=st.dictionaries(st.sampled_from([*Source.model_fields, "x"]), JSON, max_size=4),
    method=st.sampled_from([*methods()]),
    knob=st.sampled_from(sorted({knob for found in methods().values() for knob in found.knobs})),
    value=JSON,
)
def test_sources_and_knobs_of_any_content(source: dict[str, Any], method: str, knob: str, value: Any) -> None:
    _is_recipe_or_refused({"sources": [{"path": "a", **source}]})
    _is_recipe_or_refused({"method": method, "knobs": {knob: value}})


def _is_recipe_or_refused(content: Any) -> None:
    recipe = None
    with contextlib.suppress(BadRecipe):
        recipe = parse(content)
    if recipe is None:
        return
    assert read_yaml(recipe.to_yaml()) == recipe
    assert all(math.isfinite(weight) for weight in recipe.weights)


@given(text=st.text(max_size=200))
def test_any_text(text: str) -> None:
    with contextlib.suppress(BadRecipe):
        read_yaml(text)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "binary.yaml", tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(BadRecipe, match="cannot be read"):
            load(path)


@pytest.mark.parametrize("id", preset_ids())
def test_presets_survive_their_own_text(id: str) -> None:
    recipe = load_preset(id)
    assert recipe.name
    assert read_yaml(recipe.to_yaml()) == recipe
