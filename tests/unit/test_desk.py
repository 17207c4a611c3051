"""One visitor's desk: library, edits, history, unit edits, and the composition they lead to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from studio.core.errors import BadRecipe, Cancelled, CannotMerge, LoomError
from studio.recipes.recipe import Source, read_yaml
from studio.session.workspace import MAX_SOURCES, Desk
from tests.fixtures import peft_folder


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Two random adapters of rank 4 on an empty desk."""
    made = Desk(tmp_path / "workspace")
    for seed, name in enumerate(("one", "two")):
        made.add(Source(path=str(peft_folder(tmp_path / name, seed=seed)), name=name))
    return made


def norm(desk: Desk) -> float:
    return desk.compose().report.norm_after


def test_an_edit_changes_the_result_and_undo_brings_it_back(desk: Desk) -> None:
    before = norm(desk)
    desk.edit_source(0, "weight of one", weight=2.0)
    assert norm(desk) != pytest.approx(before)
    desk.move(-1)
    assert norm(desk) == pytest.approx(before)
    desk.move(1)
    assert desk.recipe.weights[0] == 2.0


def test_edits_of_one_control_in_a_row_are_one_step(desk: Desk) -> None:
    count = len(desk.history.steps)
    for weight in (0.1, 0.2, 0.3):
        desk.edit_source(0, "weight of one", weight=weight)
    assert len(desk.history.steps) == count + 1
    desk.move(-1)
    assert desk.recipe.sources[0].weight is None


def test_a_wrong_edit_leaves_the_desk_as_it_was(desk: Desk) -> None:
    before, version = desk.recipe, desk.version
    with pytest.raises(BadRecipe, match=r"(?i)density"):
        desk.edit("bad", method="ties", knobs={"density": 7})
    assert (desk.recipe, desk.version) == (before, version)


def test_removing_and_undo_gives_the_adapter_back(desk: Desk) -> None:
    desk.remove(0)
    assert [entry.adapter.name for entry in desk.entries] == ["two"]
    desk.move(-1)
    assert [entry.adapter.name for entry in desk.entries] == ["one", "two"]


def test_a_newcomer_beside_weights_that_were_set_counts_whole(desk: Desk, tmp_path: Path) -> None:
    desk.add(Source(path=str(peft_folder(tmp_path / "three", seed=3)), name="three"))
    assert desk.recipe.sources[2].weight is None  # none was set: the method's own
    desk.edit_source(0, "weight of one", weight=0.5)
    desk.add(Source(path=str(peft_folder(tmp_path / "four", seed=4)), name="four"))
    assert desk.recipe.sources[3].weight == 1.0


def test_the_same_weights_land_once(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(LoomError, match="already"):
        desk.add(Source(path=str(tmp_path / "one"), name="again"))


def test_the_desk_says_when_it_is_full(desk: Desk, tmp_path: Path) -> None:
    for seed in range(2, MAX_SOURCES):
        desk.add(Source(path=str(peft_folder(tmp_path / f"more-{seed}", seed=seed))))
    with pytest.raises(LoomError, match=str(MAX_SOURCES)):
        desk.add(Source(path=str(peft_folder(tmp_path / "last", seed=99))))


def test_muting_every_unit_of_a_source_is_weight_zero(desk: Desk) -> None:
    table = desk.units().table
    desk.scale_units(np.flatnonzero(table.adapter == 0).tolist(), 0.0, "mute one")
    muted = desk.compose().adapter
    desk.move(-1)
    desk.edit_source(0, "weight", weight=0.0)
    silent = desk.compose().adapter
    for name, module in silent.modules.items():
        np.testing.assert_allclose(muted.delta(name), module.delta(), rtol=0, atol=1e-6)


def test_scaling_all_units_of_a_module_scales_its_delta(desk: Desk) -> None:
    desk.remove(1)
    desk.edit_source(0, "weight", weight=1.0)
    table, whole = desk.units().table, desk.adapters[0]
    first = table.places[0].name
    desk.scale_units(np.flatnonzero(table.module == 0).tolist(), 0.5, "scale")
    found = desk.compose().adapter
    np.testing.assert_allclose(found.delta(first), 0.5 * whole.delta(first), rtol=1e-5, atol=1e-7)
    other = table.places[1].name
    np.testing.assert_allclose(found.delta(other), whole.delta(other), rtol=1e-5, atol=1e-7)


def test_keep_only_then_clear(desk: Desk) -> None:
    before = norm(desk)
    desk.keep_only([0, 1])
    assert sum(factor == 0 for factor in desk.factors()) == len(desk.units().table) - 2
    assert norm(desk) < before
    desk.clear_units()
    assert norm(desk) == pytest.approx(before)


def test_units_edited_in_one_form_are_not_edited_in_the_other(desk: Desk) -> None:
    desk.scale_units([0], 0.0, "mute")
    desk.look(form="raw")
    with pytest.raises(LoomError, match="canonical"):
        desk.scale_units([0], 0.0, "mute")


def test_all_weights_zero_is_refused(desk: Desk) -> None:
    for index in (0, 1):
        desk.edit_source(index, f"weight {index}", weight=0.0)
    with pytest.raises(CannotMerge):
        desk.compose()


def test_a_pinned_recipe_opens_on_another_desk(desk: Desk, tmp_path: Path) -> None:
    desk.edit_source(1, "weight", weight=-0.5)
    text = desk.pinned().to_yaml()
    other = Desk(tmp_path / "elsewhere")
    other.load(read_yaml(text), "open")
    assert norm(other) == pytest.approx(norm(desk))
    assert other.recipe.weights == desk.recipe.weights


def test_a_recipe_for_a_changed_file_is_refused(desk: Desk, tmp_path: Path) -> None:
    text = desk.pinned().to_yaml()
    peft_folder(tmp_path / "one", seed=77)
    with pytest.raises(CannotMerge, match="SHA-256"):
        Desk(tmp_path / "elsewhere").load(read_yaml(text), "open")


def test_a_desk_that_is_not_local_opens_no_paths(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "one")
    with pytest.raises(BadRecipe, match="path"):
        Desk(tmp_path / "workspace", is_local=False).add(Source(path=str(folder)))


@pytest.mark.parametrize("path", ["upload:../one", "upload:..", "upload:", "x/upload:../../etc"])
def test_uploads_stay_in_the_workspace(tmp_path: Path, path: str) -> None:
    peft_folder(tmp_path / "one")
    with pytest.raises(LoomError):
        Desk(tmp_path / "workspace", is_local=False).add(Source(path=path))


def test_scopes_that_are_gone_mean_everything(desk: Desk) -> None:
    layer = desk.layers()[0]
    desk.look(scope=layer)
    assert desk.scope().layer == layer
    desk.look(scope="nowhere.7")
    assert desk.scope().layer is None


def test_stop_ends_a_merge_and_the_next_edit_starts_anew(desk: Desk) -> None:
    def stop(done: int, total: int, what: str) -> None:
        desk.stop()

    desk.edit("method", method="svd", knobs={"rank": 2})
    assert len({module.shape for module in desk.adapters[0].modules.values()}) > 1  # more than one batch
    with pytest.raises(Cancelled):
        desk.compose(on_step=stop)
    assert 0 < desk.progress[0] < desk.progress[1]
    desk.edit_source(0, "weight of one", weight=0.5)
    assert desk.compose().report.sources[0].weight == 0.5


def test_a_look_does_not_end_a_merge_and_those_who_ask_at_once_share_it(desk: Desk) -> None:
    steps: list[int] = []

    def look(done: int, total: int, what: str) -> None:
        steps.append(done)
        desk.look(prompt=f"prompt {done}")
        desk.version += 1

    desk.edit("method", method="svd", knobs={"rank": 2})
    with ThreadPoolExecutor(4) as pool:
        found = [asked.result() for asked in [pool.submit(desk.compose, on_step=look) for _ in range(4)]]
    assert len(set(map(id, found))) == 1
    assert steps == sorted(set(steps))  # one merge told its progress


def test_the_picture_changes_with_the_units_and_with_nothing_else(desk: Desk) -> None:
    first = desk.picture()
    desk.edit_source(0, "weight of one", weight=0.5)
    desk.edit("method", method="svd", knobs={"rank": 2})
    assert desk.picture() == first
    desk.look(form="raw")
    assert desk.picture() != first
    desk.look(form="canonical")
    assert desk.picture() == first
    desk.remove(0)
    assert desk.picture() != first
    desk.move(-1)
    assert desk.picture() == first
