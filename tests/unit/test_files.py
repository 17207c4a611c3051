"""Files are written whole or not at all, with the mode of any new file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core.errors import MissingFile
from studio.core.files import local_path, read_at_most, write_atomic


@given(st.text(max_size=400) | st.sampled_from(["~nobody/of/that/name", "\0", "x" * 256, "a/" * 3000, "\ud800"]))
def test_a_text_is_a_path_that_can_be_asked_for_or_refused(text: str) -> None:
    with suppress(MissingFile):
        assert local_path(text).is_dir() in (True, False)


@pytest.mark.parametrize("text", ["~nobody-of-that-name", "a\0b", "é" * 200, "a/" * 3000])
def test_texts_that_no_file_system_takes(text: str) -> None:
    with pytest.raises(MissingFile, match="not a path"):
        local_path(text)


def test_the_home_folder_is_filled_in() -> None:
    assert local_path("~/x") == Path.home() / "x"


def test_a_written_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_atomic(tmp_path / "deep" / "new", b"x")
    assert (tmp_path / "deep" / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_trouble_names_the_target_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken") as told:
        write_atomic(tmp_path / "taken", b"x")
    assert told.value.filename == str(tmp_path / "taken")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1234")
    assert (read_at_most(tmp_path / "x", 4), read_at_most(tmp_path / "x", 3)) == (b"1234", None)
