"""The packages stand in layers: each imports only lower ones, no files import each other in a circle."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter

import pytest

from tools.layers import FLOORS, MODULES, ROOT, Arrow, arrows, package

NEXT_TO_THE_MODULE = r"""Path\(__file__\)\.(parent / ["']|with_name\()"""


@pytest.fixture(scope="module")
def imports() -> list[Arrow]:
    """Every import of every file."""
    return [arrow for module, path in MODULES.items() for arrow in arrows(module, path)]


def test_every_package_has_its_layer() -> None:
    assert {package(module) for module in MODULES} == FLOORS.keys()


def test_each_package_imports_only_lower_ones(imports: list[Arrow]) -> None:
    across = [a for a in imports if a.target in MODULES and package(a.module) != package(a.target)]
    wrong = [str(a) for a in across if FLOORS[package(a.target)] >= FLOORS[package(a.module)]]
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle(imports: list[Arrow]) -> None:
    graph = {module: {a.target for a in imports if a.module == module and a.target in MODULES} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1]  # each is imported by the next
        pairs = set(zip(circle[1:], circle, strict=False))
        pytest.fail("\n".join(str(arrow) for arrow in imports if (arrow.module, arrow.target) in pairs))


def test_only_the_page_imports_gradio(imports: list[Arrow]) -> None:
    wrong = [str(a) for a in imports if a.target.startswith("gradio") and package(a.module) != "studio.ui"]
    assert not wrong, "\n".join(wrong)


def test_one_module_finds_packaged_data() -> None:
    """`assets/` and `presets/` lie elsewhere in a wheel: only studio.core.data may climb out of a module's folder."""
    paths = [path for name, path in MODULES.items() if name.startswith("studio") and name != "studio.core.data"]
    lines = [(path, n, line) for path in paths for n, line in enumerate(path.read_text("utf-8").splitlines(), 1)]
    wrong = [
        f"{path.relative_to(ROOT)}:{n}: {line.strip()}"
        for path, n, line in lines
        if ".parents[" in line or re.search(r"(?<![.\w])__file__", re.sub(NEXT_TO_THE_MODULE, "", line))
    ]
    assert not wrong, "\n".join(wrong)
