"""One visitor's workspace: library, edits, history, unit edits, and the composition they lead to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from studio.core.errors import BadRecipe, Cancelled, CannotMerge, LoomError
from studio.recipes.recipe import Source, read_yaml
from studio.session.results import Results
from studio.session.workspace import MAX_SOURCES, Workspace
from tests.fixtures import peft_folder


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Two random adapters of rank 4 on an empty workspace."""
    made = Workspace(tmp_path / "workspace")
    for seed, name in enumerate(("one", "two")):
        made.add(Source(path=str(peft_folder(tmp_path / name, seed=seed)), name=name))
    return made


def norm(workspace: Workspace) -> float:
    return workspace.compose().report.norm_after


def test_an_edit_changes_the_result_and_undo_brings_it_back(workspace: Workspace) -> None:
    before = norm(workspace)
    workspace.edit_source(0, "weight of one", weight=2.0)
    assert norm(workspace) != pytest.approx(before)
    workspace.move(-1)
    assert norm(workspace) == pytest.approx(before)
    workspace.move(1)
    assert workspace.recipe.weights[0] == 2.0


def test_edits_of_one_control_in_a_row_are_one_step(workspace: Workspace) -> None:
    count = len(workspace.history.steps)
    for weight in (0.1, 0.2, 0.3):
        workspace.edit_source(0, "weight of one", weight=weight)
    assert len(workspace.history.steps) == count + 1
    workspace.move(-1)
    assert workspace.recipe.sources[0].weight is None


def test_a_wrong_edit_leaves_the_workspace_as_it_was(workspace: Workspace) -> None:
    before, version = workspace.recipe, workspace.version
    with pytest.raises(BadRecipe, match=r"(?i)density"):
        workspace.edit("bad", method="ties", knobs={"density": 7})
    assert (workspace.recipe, workspace.version) == (before, version)


def test_removing_and_undo_gives_the_adapter_back(workspace: Workspace) -> None:
    workspace.remove(0)
    assert [entry.adapter.name for entry in workspace.entries] == ["two"]
    workspace.move(-1)
    assert [entry.adapter.name for entry in workspace.entries] == ["one", "two"]


def test_a_newcomer_beside_weights_that_were_set_counts_whole(workspace: Workspace, tmp_path: Path) -> None:
    workspace.add(Source(path=str(peft_folder(tmp_path / "three", seed=3)), name="three"))
    assert workspace.recipe.sources[2].weight is None  # none was set: the method's own
    workspace.edit_source(0, "weight of one", weight=0.5)
    workspace.add(Source(path=str(peft_folder(tmp_path / "four", seed=4)), name="four"))
    assert workspace.recipe.sources[3].weight == 1.0


def test_the_same_weights_land_once(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(LoomError, match="already"):
        workspace.add(Source(path=str(tmp_path / "one"), name="again"))


def test_the_workspace_says_when_it_is_full(workspace: Workspace, tmp_path: Path) -> None:
    for seed in range(2, MAX_SOURCES):
        workspace.add(Source(path=str(peft_folder(tmp_path / f"more-{seed}", seed=seed))))
    with pytest.raises(LoomError, match=str(MAX_SOURCES)):
        workspace.add(Source(path=str(peft_folder(tmp_path / "last", seed=99))))


def test_muting_every_unit_of_a_source_is_weight_zero(workspace: Workspace) -> None:
    table = workspace.units().table
    workspace.scale_units(np.flatnonzero(table.adapter == 0).tolist(), 0.0, "mute one")
    muted = workspace.compose().adapter
    workspace.move(-1)
    workspace.edit_source(0, "weight", weight=0.0)
    silent = workspace.compose().adapter
    for name, module in silent.modules.items():
        np.testing.assert_allclose(muted.delta(name), module.delta(), rtol=0, atol=1e-6)


def test_scaling_all_units_of_a_module_scales_its_delta(workspace: Workspace) -> None:
    workspace.remove(1)
    workspace.edit_source(0, "weight", weight=1.0)
    table, whole = workspace.units().table, workspace.adapters[0]
    first = table.places[0].name
    workspace.scale_units(np.flatnonzero(table.module == 0).tolist(), 0.5, "scale")
    found = workspace.compose().adapter
    np.testing.assert_allclose(found.delta(first), 0.5 * whole.delta(first), rtol=1e-5, atol=1e-7)
    other = table.places[1].name
    np.testing.assert_allclose(found.delta(other), whole.delta(other), rtol=1e-5, atol=1e-7)


def test_keep_only_then_clear(workspace: Workspace) -> None:
    before = norm(workspace)
    workspace.keep_only([0, 1])
    assert sum(factor == 0 for factor in workspace.factors()) == len(workspace.units().table) - 2
    assert norm(workspace) < before
    workspace.clear_units()
    assert norm(workspace) == pytest.approx(before)


def test_units_edited_in_one_form_are_not_edited_in_the_other(workspace: Workspace) -> None:
    workspace.scale_units([0], 0.0, "mute")
    workspace.look(form="raw")
    with pytest.raises(LoomError, match="canonical"):
        workspace.scale_units([0], 0.0, "mute")


def test_all_weights_zero_is_refused(workspace: Workspace) -> None:
    for index in (0, 1):
        workspace.edit_source(index, f"weight {index}", weight=0.0)
    with pytest.raises(CannotMerge):
        workspace.compose()


def test_a_pinned_recipe_opens_on_another_workspace(workspace: Workspace, tmp_path: Path) -> None:
    workspace.edit_source(1, "weight", weight=-0.5)
    text = workspace.pinned().to_yaml()
    other = Workspace(tmp_path / "elsewhere")
    other.load(read_yaml(text), "open")
    assert norm(other) == pytest.approx(norm(workspace))
    assert other.recipe.weights == workspace.recipe.weights


def test_a_recipe_for_a_changed_file_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    text = workspace.pinned().to_yaml()
    peft_folder(tmp_path / "one", seed=77)
    with pytest.raises(CannotMerge, match="SHA-256"):
        Workspace(tmp_path / "elsewhere").load(read_yaml(text), "open")


def test_a_workspace_that_is_not_local_opens_no_paths(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "one")
    with pytest.raises(BadRecipe, match="path"):
        Workspace(tmp_path / "workspace", is_local=False).add(Source(path=str(folder)))


@pytest.mark.parametrize("path", ["upload:../one", "upload:..", "upload:", "x/upload:../../etc"])
def test_uploads_stay_in_the_workspace(tmp_path: Path, path: str) -> None:
    peft_folder(tmp_path / "one")
    with pytest.raises(LoomError):
        Workspace(tmp_path / "workspace", is_local=False).add(Source(path=path))


def test_scopes_that_are_gone_mean_everything(workspace: Workspace) -> None:
    layer = workspace.layers()[0]
    workspace.look(scope=layer)
    assert workspace.scope().layer == layer
    workspace.look(scope="nowhere.7")
    assert workspace.scope().layer is None


def test_stop_ends_a_merge_and_the_next_edit_starts_anew(workspace: Workspace) -> None:
    def stop(done: int, total: int, what: str) -> None:
        workspace.stop()

    workspace.edit("method", method="svd", knobs={"rank": 2})
    assert len({module.shape for module in workspace.adapters[0].modules.values()}) > 1  # more than one batch
    with pytest.raises(Cancelled):
        workspace.compose(on_step=stop)
    assert 0 < workspace.progress[0] < workspace.progress[1]
    workspace.edit_source(0, "weight of one", weight=0.5)
    assert workspace.compose().report.sources[0].weight == 0.5


def test_a_look_does_not_end_a_merge_and_those_who_ask_at_once_share_it(workspace: Workspace) -> None:
    steps: list[int] = []

    def look(done: int, total: int, what: str) -> None:
        steps.append(done)
        workspace.look(prompt=f"prompt {done}")
        workspace.touch()

    workspace.edit("method", method="svd", knobs={"rank": 2})
    with ThreadPoolExecutor(4) as pool:
        found = [asked.result() for asked in [pool.submit(workspace.compose, on_step=look) for _ in range(4)]]
    assert len(set(map(id, found))) == 1
    assert steps == sorted(set(steps))  # one merge told its progress


def test_the_picture_changes_with_the_units_and_with_nothing_else(workspace: Workspace) -> None:
    first = workspace.picture()
    workspace.edit_source(0, "weight of one", weight=0.5)
    workspace.edit("method", method="svd", knobs={"rank": 2})
    assert workspace.picture() == first
    workspace.look(form="raw")
    assert workspace.picture() != first
    workspace.look(form="canonical")
    assert workspace.picture() == first
    workspace.remove(0)
    assert workspace.picture() != first
    workspace.move(-1)
    assert workspace.picture() == first


def test_threads_that_edit_look_and_keep_at_once_lose_nothing(workspace: Workspace) -> None:
    start = workspace.version

    def edit(number: int) -> None:
        workspace.edit(f"scale {number}", scale=1 + number / 100)
        workspace.look(tokens=number + 1)
        workspace.keep(f"version {number}", workspace.recipe)
        workspace.touch()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(edit, range(64)))
    labels = [step.label for step in workspace.history.steps]
    assert sorted(labels[-64:]) == sorted(f"scale {number}" for number in range(64))
    assert workspace.version == start + 128  # an edit and a touch each
    assert len(workspace.snapshots) == 64


def test_snapshots_without_a_name_are_numbered_and_none_is_lost(workspace: Workspace) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(workspace.save_snapshot, [""] * 32))
    assert set(workspace.snapshots) == {f"version {number}" for number in range(1, 33)}


def test_forgetting_the_history_forgets_no_edit_that_comes_at_the_same_time(workspace: Workspace) -> None:
    def edit(number: int) -> None:
        workspace.edit_source(number % 2, f"weight {number}", weight=number / 100)
        workspace.forget_history()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(edit, range(64)))
    assert workspace.recipe.weights[0] in {number / 100 for number in range(0, 64, 2)}
    assert workspace.recipe.weights[1] in {number / 100 for number in range(1, 64, 2)}
    assert len(workspace.history.steps) == 1


def test_units_of_adapters_that_are_gone_are_not_edited(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    units = workspace.units()
    monkeypatch.setattr(workspace, "units", lambda: units)  # read before another thread took an adapter away
    workspace.remove(0)
    before = workspace.recipe
    with pytest.raises(Cancelled, match="something else"):
        workspace.scale_units([0], 0.0, "mute")
    assert workspace.recipe == before


def test_a_result_is_made_once_however_many_ask_and_waits_for_no_other_kind() -> None:
    results, made = Results(), []
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: results.kept("a", 1, lambda: made.append(1) or [1]), range(8)))
    assert len(made) == len(set(map(id, found))) == 1
    assert results.kept("a", 2, lambda: results.kept("b", 1, lambda: "inner")) == "inner"
    assert (results.at_hand("a", 1), results.at_hand("b", 1)) == (None, "inner")


def test_a_result_that_could_not_be_made_is_made_by_the_next() -> None:
    results = Results()
    with pytest.raises(ZeroDivisionError):
        results.kept("a", 1, lambda: 1 // 0)
    assert results.kept("a", 1, lambda: 2) == 2
