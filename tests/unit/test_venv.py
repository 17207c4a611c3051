"""`tools/venv.sh`: makes once, installs again when requirements change, says clearly why it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import LIMIT

ROOT = Path(__file__).parents[2]
PYTHON = Path(sys.executable)
pytestmark = pytest.mark.skipif(os.name == "nt", reason="a script for POSIX shells")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The script, and requirements that name no package."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/venv.sh", tmp_path / "tools")
    for name in ("requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_text("# nothing\n")
    return tmp_path


def venv(project: Path, *, interpreter: Path = PYTHON, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script with the given interpreter."""
    environment = {**os.environ, **environment, "PYTHON": str(interpreter)}
    command = ["sh", "tools/venv.sh"]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=LIMIT)


def write_script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_made_once_then_again_when_requirements_change(project: Path) -> None:
    first = venv(project)
    assert first.returncode == 0, first.stderr
    assert "making .venv" in first.stdout
    assert (project / ".venv/bin/python").exists()

    unchanged = venv(project)
    assert (unchanged.returncode, unchanged.stdout, unchanged.stderr) == (0, "", "")

    (project / "requirements-dev.txt").write_text("# something else\n")
    changed = venv(project)
    assert changed.returncode == 0, changed.stderr
    assert "installing" in changed.stdout
    assert "making" not in changed.stdout


def test_a_broken_install_is_not_taken_for_done(project: Path) -> None:
    (project / "requirements.txt").write_text("./no-such-folder\n")
    for _ in range(2):
        failed = venv(project)
        assert failed.returncode == 1
        assert "pip could not install" in failed.stderr.splitlines()[-1]


def test_without_ensurepip_says_what_to_install(project: Path, tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "ensurepip.py").write_text("raise ImportError\n")
    refused = venv(project, PYTHONPATH=str(shadow))
    assert refused.returncode == 1
    assert "apt-get install python3-venv" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (project / ".venv").exists()


def test_old_python_is_named(project: Path, tmp_path: Path) -> None:
    old = write_script(tmp_path / "old", '#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    refused = venv(project, interpreter=old)
    assert refused.returncode == 1
    assert "Python 3.9.2, and 3.11 or newer is needed" in refused.stderr


def test_no_python_is_said(project: Path, tmp_path: Path) -> None:
    refused = venv(project, interpreter=tmp_path / "none")
    assert refused.returncode == 1
    assert "Install Python 3.11 or newer" in refused.stderr
