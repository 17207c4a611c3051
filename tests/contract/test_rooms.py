"""What every room of the page promises: it is listed, its controls are explained, and it waits until it is opened."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.block_function import BlockFunction
from gradio.blocks import Block, BlockContext

from studio.merging import methods
from studio.session.store import Settings
from studio.ui.rooms import ROOMS
from studio.ui.shell.page import Page, build
from studio.ui.shell.room import Room

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
NO_CONTROLS = (gr.HTML, gr.Markdown, gr.State, gr.BrowserState, gr.Timer)
KNOBS = {f"{method.id}-{name}" for method in methods().values() for name in method.knobs}  # rows of methods.md
POOLS = {"weight-0": "a slider for each adapter", "remove-0": "✕", "gain-0": "1, 2, 3 …"}
"""Controls that come once for each adapter, by the id of the first; the others are `REPEATED`."""
REPEATED = re.compile(r"(weight|remove|gain)-[1-9]\d*")
MOST_VALUES = 7  # of a handler, self and token among them
FOLDERS = ("compose", "judge", "route", "pictures", "lessons")
rooms = pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.id)

BUILT_WITH_NOTHING_HEAVY = """
import sys, tempfile
from pathlib import Path
sys.modules.update(dict.fromkeys(("torch", "transformers", "peft", "diffusers", "umap", "sklearn", "scipy")))
from studio.ui.shell.page import build
from studio.session.store import Settings
with tempfile.TemporaryDirectory() as folder:
    build(Settings(Path(folder)))
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page that nothing warms up."""
    return build(Settings(tmp_path_factory.mktemp("rooms")))


def inside(block: BlockContext) -> Iterator[Block]:
    """All blocks within a block."""
    for child in block.children:
        yield child
        if isinstance(child, BlockContext):
            yield from inside(child)


def controls(blocks: Sequence[Block]) -> Counter[str]:
    """What a visitor can use or read by a name, with how often the name comes."""
    return Counter(
        POOLS.get(block.elem_id) or str(block.label or getattr(block, "value", ""))
        for block in blocks
        if isinstance(block, gr.components.Component)
        and not isinstance(block, NO_CONTROLS)
        and block.elem_id not in KNOBS
        and not (block.elem_id and REPEATED.fullmatch(block.elem_id))
    )


def explained(docs: str, heading: str) -> Counter[str]:
    """The controls that have a row below a heading, with a last cell that says something."""
    text = (REFERENCE / docs).read_text(encoding="utf-8")
    _, mark, rest = text.partition(f"\n## {heading}\n")
    assert mark, f"docs/reference/{docs} has no section {heading!r}"
    rows = [line.split("|") for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    return Counter(cells[1].strip() for cells in rows if cells[-2].strip(" -") and cells[1].strip() != "control")


def check_rows(blocks: Sequence[Block], docs: str, heading: str) -> None:
    """Each control has a row of its own, and each row a control."""
    on_page, in_docs = controls(blocks), explained(docs, heading)
    missing, gone = sorted((on_page - in_docs).elements()), sorted((in_docs - on_page).elements())
    assert not missing, f"docs/reference/{docs}, {heading!r}: no row for {', '.join(missing)}"
    assert not gone, f"docs/reference/{docs}, {heading!r}: nothing on the page is called {', '.join(gone)}"


@rooms
def test_every_control_of_a_room_has_its_row_in_the_docs(page: Page, room: Room) -> None:
    check_rows(list(inside(page.tabs[room.id])), room.docs, room.heading)


def test_every_control_above_the_rooms_has_its_row_in_the_docs(page: Page) -> None:
    of_rooms = {block._id for tab in page.tabs.values() for block in inside(tab)}
    check_rows([block for block in inside(page.demo) if block._id not in of_rooms], "page.md", "Above the rooms")


def test_every_panel_of_a_tab_belongs_to_a_room_of_the_list() -> None:
    listed = {room.panel.__name__ for room in ROOMS}
    for path in sorted((ROOT / "studio" / "ui").glob("*/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and takes_a_tab(node) and node.name != "TabPanel":
                where = path.relative_to(ROOT)
                assert node.name in listed, f"{where}: no Room of studio/ui/rooms.py has the panel {node.name}"


def takes_a_tab(node: ast.ClassDef) -> bool:
    """Whether a class is wired with a tab, as the panels of rooms are."""
    wires = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "wire"]
    return any(argument.arg == "tab" for wire in wires for argument in wire.args.args)


def test_rooms_differ_and_stand_in_order() -> None:
    for name in ("id", "title", "summary", "panel"):
        assert len({getattr(room, name) for room in ROOMS}) == len(ROOMS), f"two rooms have the same {name}"
    folders = [room.panel.__module__.split(".")[2] for room in ROOMS]
    assert folders == sorted(folders, key=FOLDERS.index), f"rooms of one folder stand together, in the order {FOLDERS}"
    assert all(room.summary.endswith(".") for room in ROOMS)


def test_building_the_page_imports_nothing_heavy() -> None:
    command = [sys.executable, "-c", BUILT_WITH_NOTHING_HEAVY]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("room", ROOMS[1:], ids=lambda room: room.id)
def test_a_room_does_nothing_before_it_is_opened(page: Page, room: Room) -> None:
    session, _ = page.shared.sessions.enter(None)
    own = {block._id for block in inside(page.tabs[room.id])}
    opens, before = (page.tabs[room.id]._id, "select"), threading.active_count()
    for listener in listeners(page, own):
        outside = [target for target in listener.targets if target[0] not in own and target != opens]
        if outside:
            answers = answered(listener, page, session.token)
            assert not answers, f"{name_of(listener)} sets {len(answers)} times what its tab shows, which nobody opened"
    assert threading.active_count() == before, f"{room.title} began work though its tab was never opened"
    assert not session.workspace.history.at


def listeners(page: Page, own: set[int]) -> list[BlockFunction]:
    """Those of a room: they hear one of its blocks, read it or set it."""
    found = []
    for listener in page.demo.fns.values():
        touched = {block._id for block in (*listener.inputs, *listener.outputs)} | {id for id, _ in listener.targets}
        if touched & own:
            found.append(listener)
    return found


def answered(listener: BlockFunction, page: Page, token: str) -> list[Any]:
    """What a listener sets on a page as it was built, for a visitor who has entered."""
    given = [token if block is page.shared.token else getattr(block, "value", None) for block in listener.inputs]
    assert listener.fn is not None
    found = listener.fn(*given)
    return [answer for answer in (found if inspect.isgenerator(found) else [found]) if answer not in ({}, gr.skip())]


def name_of(listener: BlockFunction) -> str:
    """A handler by its class and name."""
    handler: Any = listener.fn
    while isinstance(handler, partial):
        handler = handler.func
    return str(handler.__qualname__)


def test_every_handler_is_a_function_that_a_test_can_call(page: Page) -> None:
    for listener in page.demo.fns.values():
        name = name_of(listener)
        assert name.rpartition(".")[2].startswith("on_"), f"{name}: handlers are called on_…"
        assert "<" not in name, f"{name}: a handler is a method, no function within another"


def test_no_handler_takes_what_controls_hold_by_place() -> None:
    for path in sorted((ROOT / "studio" / "ui").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                where, rest = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node.args.vararg
                passed_on = rest is not None and isinstance(rest.annotation, ast.Attribute)  # a decorator's P.args
                assert rest is None or passed_on, (
                    f"{where} takes *{rest.arg}: make it a form, see studio/ui/shell/forms"
                )
                many = node.name.startswith("on_") and len(node.args.args) > MOST_VALUES
                assert not many, f"{where} takes {len(node.args.args)} values: make them a form"
