"""The command line as a person runs it: exit status, one line of trouble, JSON that keeps its shape."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from studio.cli import main as cli
from studio.composing.report import ModuleReport, Report, SourceReport
from studio.formats import DIALECTS, WRITERS, open_adapter
from studio.merging import methods
from studio.recipes.recipe import load
from tests.contract.contract import FEW, UNSIGNED
from tests.fixtures import TINY, peft_folder
from tests.waiting import LIMIT

INSPECTION = {
    *("path", "verdict", "dialect", "evidence", "base", "ranks"),
    *("alpha", "scaling", "modules", "dtype", "bytes", "findings", "account"),
}


def run(*arguments: object, folder: Path | None = None, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    """`python -m studio …` in a process of its own."""
    command = [sys.executable, "-m", "studio", *map(str, arguments)]
    environment = {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PATH": "",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONIOENCODING": encoding,
    }
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT, env=environment)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The same without a new process, where the process is not the point: status, stdout, stderr."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


def assert_one_line(text: str, *parts: str) -> None:
    assert text.startswith("loom: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    for part in parts:
        assert part.lower() in text.lower()


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return peft_folder(tmp_path / "a", seed=1), peft_folder(tmp_path / "b", seed=2, rank=2, alpha=1)


def test_merge_and_its_report_as_json(tmp_path: Path, two: tuple[Path, Path]) -> None:
    done = run("merge", "--method", "svd", "--rank", 3, "--weights", "-0.5,1", *two, "-o", tmp_path / "out", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report: dict[str, Any] = json.loads(done.stdout)
    assert report.keys() == {field.name for field in fields(Report)}
    assert {frozenset(source) for source in report["sources"]} == {frozenset(f.name for f in fields(SourceReport))}
    assert {frozenset(module) for module in report["modules"]} == {frozenset(f.name for f in fields(ModuleReport))}
    assert (report["method"], report["knobs"], report["rank"]) == ("svd", {"rank": 3}, 3)
    assert [source["weight"] for source in report["sources"]] == [-0.5, 1.0]
    assert open_adapter(tmp_path / "out").ranks == (3,)


def test_inspect_as_json_says_all_and_fails_if_one_is_refused(tmp_path: Path, two: tuple[Path, Path]) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"\x00\x00")
    done = run("inspect", two[0], tmp_path / "bad.safetensors", tmp_path / "missing", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert_one_line(done.stderr, "2 of 3 refused", "bad.safetensors", "missing")
    assert [item["verdict"] for item in found] == ["ok", "refused", "refused"]
    assert all(item.keys() == INSPECTION for item in found)
    assert found[0]["findings"] == []
    assert [row["fate"] for row in found[0]["account"]["tensors"]] == ["module"] * 8
    assert found[1]["account"] is None
    assert all(finding.keys() == {"level", "module", "text"} for finding in found[1]["findings"])


def test_formats_are_listed_as_the_registries_have_them(capsys: pytest.CaptureFixture[str]) -> None:
    _, listed, _ = call(capsys, "formats", "--json")
    found = json.loads(listed)
    assert [dialect["id"] for dialect in found["read"]] == [*DIALECTS]
    assert [writer["id"] for writer in found["written"]] == [*WRITERS]
    _, text, _ = call(capsys, "formats")
    assert all(f"  {id} " in text for id in (*DIALECTS, *WRITERS))


def test_methods_are_listed_without_torch() -> None:
    program = (
        "import sys, studio.cli.main; studio.cli.main.main(['methods', '--json']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    listed = json.loads(done.stdout)
    assert [found["id"] for found in listed] == [*methods()]
    assert {knob["name"] for found in listed if found["id"] == "svd" for knob in found["knobs"]} == {"rank"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a", "b", "--weights", "1"], "1 weights for 2 adapters"),
        (["a", "b", "--weights", "1,x"], "'1,x' is not a list of numbers"),
        (["a", "b", "--weights", "nan,1"], "sources.0.weight"),
        (["a", "b", "--weights", "1e9,1"], "less than or equal to 100"),
        (["a", "b", "--set", "density=0.5"], "cat has no knob 'density'"),
        (["a", "b", "--set", "density"], "cat has no knob 'density'"),
        (["a", "b", "--method", "ties", "--set", "density=7"], "between 0.01 and 1"),
        (["a", "b", "--method", "ties", "--set", "density=dense"], "density cannot be 'dense'"),
        (["a", "b", "--method", "ties", "--k", "4"], "ties has no knob 'k'"),
        (["a", "b", "--method", "svd", "--rank", "2.5"], "whole number"),
        (["a", "b", "--method", "lego", "--set", "form=sideways"], "raw, canonical"),
        (["a", "b", "--method", UNSIGNED[0], "--weights=-1,1"], "no negative weights"),
        (["a", "b", "a", "--method", FEW[0]], "at most 2"),
        (["a", "b", "--method", "average"], "invalid choice: 'average'"),
        (["a", "b", "--weights", "0,0"], "every weight is zero"),
        (["a", "b", "--extras", "c"], "no source has that name"),
        (["a", "b", "--seed", "-1"], "seed"),
        (["a", "missing"], "is not there"),
        (["a", "other"], "different base models"),
        (["recipe.yaml", "a"], "names its own sources"),
        (["missing.yaml"], "cannot be read"),
    ],
)
def test_trouble_is_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b")):
        peft_folder(tmp_path / name, seed=seed)
    peft_folder(tmp_path / "other", base="other/model")
    status, out, err = call(capsys, "merge", *arguments, "-o", "out")
    assert status in (1, 2)
    assert out == ""
    assert_one_line(err, says)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["a", "missing"], ["a", "--weights", "1,2"], ["a", "--nonsense"]])
def test_trouble_in_a_process_of_its_own(tmp_path: Path, arguments: list[str]) -> None:
    peft_folder(tmp_path / "a")
    done = run("merge", *arguments, "-o", "out", folder=tmp_path)
    assert done.returncode != 0
    assert_one_line(done.stderr)
    assert done.stdout == ""


def test_a_defect_is_one_line_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.cli.methods.methods", lambda: 1 / 0)
    monkeypatch.delenv("LOOM_DEBUG", raising=False)
    status, _, err = call(capsys, "methods")
    assert status == 1
    assert_one_line(err, "A defect in the studio", "LOOM_DEBUG")


@pytest.mark.parametrize(
    ("verb", "package"),
    [
        (["ui", "--port", "1"], "gradio"),
        (["merge", "loom:math", "loom:shout", "--method", "svd", "-o", "out"], "torch"),
    ],
)
def test_a_package_that_is_absent_is_named_where_it_is_needed(verb: list[str], package: str, tmp_path: Path) -> None:
    blocked = (
        f"import sys; sys.modules['{package}'] = None; from studio.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", blocked, *verb]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, env=environment)
    assert done.returncode == 1
    assert_one_line(done.stderr, f"The package {package} is not installed")


def test_k_and_rank_are_the_knobs_of_that_name(
    tmp_path: Path, two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"lego": ["--k", "3"], "svd": ["--rank", "3"], "ties": ["--rank", "3", "--set", "density=0.3"]}
    for method, given in flags.items():
        status, out, _ = call(capsys, "merge", *two, "--method", method, *given, "-o", tmp_path / "out", "--json")
        assert status == 0
        assert json.loads(out)["rank"] == 3


def test_flags_override_a_recipe(tmp_path: Path, two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    content = {"sources": [{"path": "a"}, {"path": "b"}], "method": "ties", "knobs": {"density": 0.2}, "seed": 3}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    flags = ["--weights", "2 1", "--set", "rank=2", "--scale", "-1"]
    status, out, _ = call(capsys, "merge", tmp_path / "r.yaml", *flags, "-o", tmp_path / "out", "--json")
    report = json.loads(out)
    assert status == 0
    assert {"density": 0.2, "rank": 2}.items() <= report["knobs"].items()
    assert (report["seed"], report["scale"]) == (3, -1)
    assert [source["weight"] for source in report["sources"]] == [2, 1]


@pytest.mark.parametrize("out", ["out", "out.zip", "deep/er/out"])
def test_the_recipe_in_an_export_gives_the_same_again(
    tmp_path: Path,
    two: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    out: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["a", "b", "--method", "dare", "--weights", "-1,0.5", "--set", "density=0.7", "--seed", 5, "--json"]
    status, first, _ = call(capsys, "merge", *given, "-o", out)
    assert status == 0
    folder = Path(out)
    if folder.suffix == ".zip":
        import zipfile

        folder = Path("out")
        zipfile.ZipFile(out).extractall(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    status, again, err = call(capsys, "merge", tmp_path / folder / "recipe.yaml", "-o", "again", "--json")
    assert (status, err) == (0, "")
    assert json.loads(again)["recipe_digest"] == json.loads(first)["recipe_digest"]
    one, other = open_adapter(tmp_path / out), open_adapter(elsewhere / "again")
    for name in TINY:
        np.testing.assert_array_equal(one.delta(name), other.delta(name))


def test_a_saved_recipe_runs_from_where_it_lies(
    tmp_path: Path, two: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved = tmp_path / "recipes" / "r.yaml"
    assert call(capsys, "merge", "a", "b", "-o", "out", "--save-recipe", saved)[0] == 0
    assert [source.path for source in load(saved).sources] == [str(saved.parent / ".." / name) for name in "ab"]
    monkeypatch.chdir("/")
    assert call(capsys, "merge", saved, "-o", tmp_path / "again")[0] == 0


def test_another_file_in_the_place_of_a_pinned_one_is_refused(
    tmp_path: Path, two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "merge", *two, "-o", tmp_path / "out")[0] == 0
    peft_folder(two[0], seed=9)
    status, _, err = call(capsys, "merge", tmp_path / "out/recipe.yaml", "-o", tmp_path / "again")
    assert status == 1
    assert_one_line(err, "is not the file the recipe was made with")


def test_trouble_after_a_base_was_loaded_is_one_line_too() -> None:
    done = run("learn", "loom:math", "--examples", "nowhere", "-o", "x.yaml")
    assert done.returncode == 1
    assert_one_line(done.stderr, "neither a skill nor a file")


def test_a_terminal_without_unicode_shows_every_name(tmp_path: Path) -> None:
    done = run("inspect", peft_folder(tmp_path / "naïve ✓"), encoding="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "na\\xefve \\u2713: ok" in done.stdout


def test_a_library_that_warns_adds_no_line(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(pickle.dumps({"a": print}, protocol=4))  # torch warns of the protocol
    done = run("inspect", tmp_path / "x.bin")
    assert done.returncode == 1
    assert "plain tensors" in done.stdout
    assert_one_line(done.stderr, "1 of 1 refused")
