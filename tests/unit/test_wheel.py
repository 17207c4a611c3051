"""The wheel is the whole studio: built here, installed beside the ready packages, tried away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 100 << 20  # of a wheel on the package index


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    return next(folder.glob("*.whl"))


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def shipped(folder: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}


def test_it_carries_code_data_and_types_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    data = {f"studio/{name}" for folder in ("assets", "presets") for name in shipped(folder)}
    assert data <= names
    assert {"studio/py.typed", "studio/ui/compose/static/map.js", "studio/formats/keys/unet.txt"} <= names
    assert {name for name in names - data if not name.startswith("studio/")} == set()
    assert wheel.stat().st_size < LIMIT


@pytest.mark.slow
def test_installed_away_from_the_checkout_every_verb_works_and_the_page_answers(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    pip("--python", scripts / "python", "install", "--no-deps", "--no-index", wheel)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    (own / "ready.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    command = [sys.executable, str(ROOT / "tools" / "installed.py"), str(scripts)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
