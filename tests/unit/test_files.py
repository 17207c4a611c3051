"""Files are written whole or not at all, with the mode of any new file."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.files import read_at_most, write_atomic


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
