"""The tasks a visitor can choose: skills of the embedded world by name, and files of their own in their workspace."""

from __future__ import annotations

import shutil
from pathlib import Path

from studio.core.errors import LoomError
from studio.evaluation.tasks import Task, named_task, voices
from studio.recipes.sources import EMBEDDED
from studio.recipes.uploads import plain
from studio.session.workspace import Workspace
from studio.text.skills import COMPOSITIONS, SINGLES, SKILLS, Split

OWN = "own:"  # a choice that starts so is a file of the visitor's
_FOLDER = "tasks"
_SPLITS: dict[Split, str] = {"train": "", "test": "", "kept": ", content kept back"}


def choices(workspace: Workspace, splits: tuple[Split, ...] = ("test",)) -> list[tuple[str, str]]:
    """(title, value) of every task: what fits the workspace first, then the rest, a visitor's own files last."""
    here = embedded(workspace)
    names = sorted([*COMPOSITIONS, *SINGLES], key=lambda name: not set(name.split("+")) <= set(here))
    known = [(f"{SKILLS[name].title}{_SPLITS[split]}", f"{name}:{split}") for name in names for split in splits]
    known += [(f"{name.capitalize()}: perplexity of its text", name) for name in voices() if "train" not in splits]
    return known + [(path.name, f"{OWN}{path.name}") for path in sorted(_folder(workspace).glob("*"))]


def embedded(workspace: Workspace) -> list[str]:
    """The adapters in the workspace that are the studio's own skills."""
    return [
        entry.adapter.name
        for entry in workspace.entries
        if str(entry.source.path).startswith(EMBEDDED) and entry.adapter.name in SINGLES
    ]


def own_tasks(workspace: Workspace) -> dict[str, str]:
    """The task that each embedded adapter in the workspace was trained for, on data that it never saw."""
    shipped = [entry.adapter.name for entry in workspace.entries if str(entry.source.path).startswith(EMBEDDED)]
    spoken = {name: name for name in shipped if name in voices()}
    return {name: f"{name}:test" for name in embedded(workspace)} | spoken


def fitting(workspace: Workspace) -> str | None:
    """The composition that the adapters in the workspace are made for, or else their first skill."""
    here = embedded(workspace)
    pairs = [name for name in COMPOSITIONS if set(name.split("+")) <= set(here)]
    return next(iter([*pairs, *here]), None)


def example(name: str | None) -> tuple[str, str]:
    """A question of a skill, always the same, and its right answer; empty for what is no skill."""
    if name is None or name not in SKILLS:
        return "", ""
    item = SKILLS[name].example
    return item.prompt, item.answer


def fits(workspace: Workspace, value: str | None) -> bool:
    """Whether a choice still makes sense: a file that is there, or a skill whose adapters are in the workspace."""
    if not value:
        return False
    if value.startswith(OWN):
        return (_folder(workspace) / value.removeprefix(OWN)).is_file()
    return set(value.partition(":")[0].split("+")) <= set(own_tasks(workspace))


def receive(workspace: Workspace, file: str) -> str:
    """Keep a visitor's file of items, once it has been read without fault; the choice that stands for it."""
    source = Path(file)
    named_task(str(source))  # refuses, with the line
    kept = _folder(workspace) / f"{plain(source.stem)}{source.suffix}"
    kept.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, kept)
    return f"{OWN}{kept.name}"


def task(workspace: Workspace, value: str, n: int, seed: int) -> Task:
    """The task of a choice; raises `LoomError` for what is not there (any more)."""
    if not value.startswith(OWN):
        if value.partition(":")[0] not in {*SKILLS, *voices()}:
            raise LoomError(f"There is no task {value!r}", next="choose one of the list")
        return named_task(value, n, seed)
    name = value.removeprefix(OWN)
    if name not in {path.name for path in _folder(workspace).glob("*")}:
        raise LoomError(f"{name} is no longer here", next="upload it again")
    return named_task(str(_folder(workspace) / name), n, seed)


def _folder(workspace: Workspace) -> Path:
    return workspace.folder / _FOLDER
