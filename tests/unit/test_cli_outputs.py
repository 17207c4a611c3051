"""Where the verbs write: never over what the studio did not write itself, and asked before the work begins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from studio.cli import main as cli
from studio.core.errors import LoomError
from studio.core.outputs import require_place, starts_with
from studio.evaluation.scoreboard import COLUMNS, Board
from studio.recipes.recipe import is_recipe, parse
from studio.vision.pictures import is_drawn, write_picture

PICTURES = ("--a", "missing.png", "--a2", "missing.png", "--b", "missing.png")
# what is read is not there, which would be said next: so whoever hears of the place hears of it before any work
WRITES = [
    ("merge", "missing", "-o"),
    ("merge", "missing", "-o", "new", "--save-recipe"),
    ("learn", "missing", "--examples", "math", "-o"),
    ("learn", "missing", "--examples", "math", "-o", "new.yaml", "--csv"),
    ("score", "missing", "--task", "math", "--csv"),
    ("route", "missing", "--examples", "math", "-o"),
    ("analogy", *PICTURES, "-o"),
    ("analogy", *PICTURES, "-o", "new.png", "--coeffs"),
    ("analogy", *PICTURES, "-o", "new.png", "--lora"),
]


@pytest.mark.parametrize("arguments", WRITES, ids=" ".join)
@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("mine.png", "it is not overwritten"),
        ("full.png", "it is not overwritten"),
        ("mine.png/below.png", "is not a folder"),
        ("shut/new.png", "does not allow it"),
    ],
)
def test_a_bad_place_is_told_before_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    place: str,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.png").write_text("format: 1 # my own\n")
    Path("full.png").mkdir()
    Path("full.png/diary.txt").write_text("dear")
    Path("shut").mkdir()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "shut" and allowed(path, mode))
    status = cli.main([*arguments, place])
    said = capsys.readouterr()
    assert (status, said.out, said.err.count("\n")) == (1, "", 1)
    assert says in said.err.lower()
    assert "missing" not in said.err
    assert Path("mine.png").read_text() == "format: 1 # my own\n"


def test_a_picture_drawn_here_is_drawn_again_and_a_photograph_is_not(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "webp"):
        drawn, photograph = tmp_path / f"drawn.{suffix}", tmp_path / f"photograph.{suffix}"
        write_picture(Image.new("RGB", (8, 8), "red"), drawn)
        Image.new("RGB", (8, 8), "red").save(photograph)
        require_place(drawn, "a picture", is_drawn)
        with pytest.raises(LoomError, match="is a file, not a picture"):
            require_place(photograph, "a picture", is_drawn)


def test_a_recipe_with_a_persons_own_words_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    parse({"sources": [{"path": "a"}], "scale": 2.0}).save(path)
    assert is_recipe(path)
    path.write_text(path.read_text() + "# twice as loud\n")
    assert not is_recipe(path)
    path.write_bytes(b"\xff")
    assert not is_recipe(path)


def test_a_table_of_scores_is_known_by_its_head(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(Board(()).to_csv())
    is_table = starts_with(",".join(COLUMNS).encode())
    assert is_table(path)
    path.write_text("name,age\n" + ",".join(COLUMNS))
    assert not is_table(path)


def test_a_path_that_no_recipe_can_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/a\xff")
    assert cli.main(["merge", odd, "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "is not UTF-8" in said
    assert "defect" not in said


@pytest.mark.parametrize("keep", ["-1", "0"])
def test_recycling_keeps_one_adapter_at_least(tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: str) -> None:
    given = ("--examples", "math", "--count", "4", "--way", "recycle", "--keep", keep, "-o", str(tmp_path / "r.yaml"))
    assert cli.main(["learn", "loom:math", "loom:shout", *given]) == 1
    assert f"Keep is {keep}. It is 1 or more." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--seeds", "nan"), "are not seeds"),
        (("--seeds", "inf"), "are not seeds"),
        (("--seeds", "1.5"), "are not seeds"),
        (("--seeds", "-1"), "seed"),
        (("--seeds", ""), "is not a list of numbers"),
        (("--scales", "nan"), "finite"),
        (("--weights", "1e30"), "less than or equal to 100"),
        (("--methods", "ties", "--set", "density=inf"), "density cannot be"),
        (("--set", "foo=1"), "knobs of cat: none"),
        (("--methods", "cat,ties", "--set", "foo=1"), "knobs of cat, ties: density, "),
        (("--n", "-1"), "cannot be asked"),
    ],
)
def test_a_sweep_of_nonsense_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    status = cli.main(["score", "loom:math", "--task", "math", *arguments])
    said = capsys.readouterr()
    assert (status, said.out) == (1, "")
    *_, line = said.err.splitlines()  # in a process of its own the libraries draw no bars before it
    assert line.startswith("loom: ")
    assert says in line.lower()
    assert "defect" not in line
