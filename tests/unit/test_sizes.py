"""What a reader can take in at once: functions a screen high at most, files of one idea."""

from __future__ import annotations

import ast

import pytest

from tools.layers import MODULES, ROOT

LONGEST_FUNCTION = 60
NINE_OF_TEN_FUNCTIONS = 17
LONGEST_FILE = 400


@pytest.fixture(scope="module")
def functions() -> list[tuple[int, str]]:
    """Every function with its lines, from `def` to its last, the longest first."""
    found = []
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                found.append((lines, f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {lines} lines"))
    return sorted(found, reverse=True)


def test_a_function_fits_on_a_screen(functions: list[tuple[int, str]]) -> None:
    too_long = [place for lines, place in functions if lines > LONGEST_FUNCTION]
    assert not too_long, "\n".join(too_long)


def test_nine_functions_in_ten_are_short(functions: list[tuple[int, str]]) -> None:
    longer = [place for lines, place in functions if lines > NINE_OF_TEN_FUNCTIONS]
    excess = len(longer) - len(functions) // 10
    assert excess <= 0, f"{excess} too many of\n" + "\n".join(longer)


def test_a_file_holds_one_idea() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values()}
    too_long = [f"{path} has {lines} lines" for path, lines in lengths.items() if lines > LONGEST_FILE]
    assert not too_long, "\n".join(too_long)
