"""What a scoreboard asks: tasks of prompts and answers, from generators, a person's own file, or real sets.

Whatever its source, a task is a name, items and a kind. `exact` counts the items whose whole answer is right;
`perplexity` says how surprising the answers were. No answer is ever executed: HumanEval, whose own measure runs the
code that a model wrote, is read by the perplexity of its reference solutions only, and its note says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from studio.core.data import assets
from studio.core.errors import LoomError, MissingFile
from studio.core.files import local_path
from studio.text.skills import SKILLS, Item, Split, items

Kind = Literal["exact", "perplexity"]

_VOICES: Final = assets("text", "voices.json")
MAX_FILE_BYTES = 64 << 20
MAX_ITEMS = 100_000


class BadTask(LoomError):
    """A task's file or name that cannot be understood."""


@dataclass(frozen=True, slots=True)
class Task:
    """Items asked in one way. `note` is what a reader of the figures must know."""

    name: str
    items: tuple[Item, ...]
    kind: Kind = "exact"
    note: str = ""

    def sample(self, n: int, seed: int = 0) -> Task:
        """At most `n` of the items, drawn without replacement, in their own order."""
        if n >= len(self.items):
            return self
        rows = sorted(Random(seed).sample(range(len(self.items)), n))
        return replace(self, items=tuple(self.items[row] for row in rows))


def skill_task(skill: str, split: Split = "test", n: int = 100, seed: int = 1) -> Task:
    """Items of a skill or composition of the embedded world; raises `LoomError` as `skills.items` does."""
    return Task(f"{skill}:{split}", tuple(items(skill, split, n, seed)))


@cache
def voices() -> Mapping[str, tuple[str, ...]]:
    """Excerpts of each embedded voice that no training saw, by adapter; none where they are not shipped."""
    found = json.loads(_VOICES.read_text("utf-8")) if _VOICES.is_file() else {}
    return MappingProxyType({name: tuple(texts) for name, texts in found.items()})


def voice_task(name: str) -> Task:
    """The perplexity of a voice's held-out excerpts; raises `BadTask` for another name."""
    if name not in voices():
        raise BadTask(f"No voice is called {name!r}", f"there are {', '.join(voices()) or 'none'}")
    return Task(name, tuple(Item("", text) for text in voices()[name]), "perplexity", "excerpts that no training saw")


def named_task(name: str, n: int = 100, seed: int = 1) -> Task:
    """A task by one word, as the command line and recipes give it.

    `math+shout` or `math+shout:kept` is a skill and split, `recipes` a voice, another word a path. Raises `BadTask` or
    `MissingFile` with what would have worked.
    """
    if n < 1:
        raise BadTask(f"{n} items of {name} cannot be asked", next="ask for 1 or more")
    skill, _, split = name.partition(":")
    if skill in SKILLS:
        if split and split not in get_args(Split):
            raise BadTask(f"{skill} has no split {split!r}", f"the splits: {', '.join(get_args(Split))}")
        return skill_task(skill, split or "test", n, seed)  # type: ignore[arg-type]
    if name in voices():
        return voice_task(name).sample(n, seed)
    path = local_path(name)
    if not path.is_file():
        known = f"the skills: {', '.join([*SKILLS, *voices()])}"
        raise MissingFile(f"{name} is neither a skill nor a file", known, "give one of them")
    return (real_task(path) if _is_real(path) else file_task(path)).sample(n, seed)


# -- a person's own file -----------------------------------------------------------------------------------------------


def file_task(path: Path) -> Task:
    """A JSONL file: `{"prompt": …, "answer": …}` a line is an exact task, `{"text": …}` one of perplexity.

    An answer gets the blank before it that tokenizers expect, unless it begins with one. Raises `BadTask` that names
    the line, for other lines, mixed kinds, no items, or more than a file may hold.
    """
    found: list[Item] = []
    kinds: set[Kind] = set()
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if line.strip():
            kind, item = _own_line(path.name, number, line)
            kinds.add(kind)
            found.append(item)
        if len(found) > MAX_ITEMS:
            raise BadTask(f"{path.name} has more than {MAX_ITEMS} items", next="give a part of it")
    if len(kinds) != 1:
        why = "it mixes questions and texts" if kinds else "it is empty"
        raise BadTask(f"{path.name} is no task", why, 'write {"prompt": …, "answer": …} on every line')
    return Task(path.stem, tuple(found), kinds.pop())


def _own_line(file: str, number: int, line: str) -> tuple[Kind, Item]:
    content = _json(f"Line {number} of {file}", line)
    fields = content if isinstance(content, dict) else {}
    prompt, answer, text = (fields.get(name) for name in ("prompt", "answer", "text"))
    if isinstance(text, str) and text.strip() and prompt is None and answer is None:
        return "perplexity", Item("", text)
    if isinstance(prompt, str) and isinstance(answer, str) and answer.strip():
        return "exact", Item(prompt, _spaced(answer))
    raise BadTask(f"Line {number} of {file} is no item", "it has no prompt and answer, and no text alone")


# -- real sets ---------------------------------------------------------------------------------------------------------

Reading = Callable[[Mapping[str, Any]], Item]


def _question(text: str) -> str:
    return f"Question: {text.strip()}\nAnswer:"


def _gsm8k(fields: Mapping[str, Any]) -> Item:
    return Item(_question(fields["question"]), _spaced(fields["answer"].rpartition("####")[2].strip()))


def _human_eval(fields: Mapping[str, Any]) -> Item:
    return Item(fields["prompt"], fields["canonical_solution"])


def _output(fields: Mapping[str, Any]) -> Item:
    return Item(_question(fields["instruction"]), _spaced(fields["output"].strip()))


def _answer(fields: Mapping[str, Any]) -> Item:
    answer = str(fields["answer"]).strip().removesuffix(".0")  # some sets write whole numbers as 8.0
    return Item(_question(fields["instruction"]), _spaced(answer))


@dataclass(frozen=True, slots=True)
class _Set:
    """How one real set is read."""

    read: Reading
    kind: Kind = "exact"
    note: str = ""


_DIRECT: Final = "the final answer alone, without working: harder than the set's own chain of thought"
_CODE: Final = "perplexity of the reference solutions; no code is executed, so this is no pass rate"
_CHOICE: Final = _Set(_output)
_NUMBER: Final = _Set(_answer, note=_DIRECT)
_PROSE: Final = _Set(_answer, "perplexity", "free answers have no exact match")
REAL: Final[Mapping[str, _Set]] = MappingProxyType(
    {
        "gsm8k-test.jsonl": _Set(_gsm8k, note=_DIRECT),
        "humaneval.jsonl": _Set(_human_eval, "perplexity", _CODE),
        **{f"{name}-test.json": _CHOICE for name in ("ARC-Challenge", "boolq", "openbookqa", "piqa", "winogrande")},
        "social_i_qa-test.json": _CHOICE,
        **{f"{name}-test.json": _NUMBER for name in ("AQuA", "AddSub", "SVAMP")},
        "test_datasets-math-test.json": _NUMBER,
        "test_datasets-qa-test.json": _PROSE,
        "test_datasets-qa-biology_test.json": _PROSE,
        "test_datasets-rc-test.json": _PROSE,
        "test_datasets-prompt_formats-test_instructions_format3.json": _CHOICE,
    }
)
"""The public sets that are known by file name: GSM8K, HumanEval, LLM-Adapters and LoRA Soups."""


def _is_real(path: Path) -> bool:
    return path.name in REAL


def real_task(path: Path) -> Task:
    """A public set, known by its file's name; raises `BadTask` for an unknown name or content of another shape."""
    known = REAL.get(path.name)
    if known is None:
        raise BadTask(f"{path.name} is no set that is known here", f"the sets: {', '.join(REAL)}")
    text = _read(path)
    lines = text.splitlines() if path.suffix == ".jsonl" else None
    rows = [_json(path.name, line) for line in lines if line.strip()] if lines else _json(path.name, text)
    if not isinstance(rows, list) or not rows:
        raise BadTask(f"{path.name} holds no list of items")
    try:
        found = tuple(known.read(row) for row in rows[:MAX_ITEMS])
    except (KeyError, TypeError, AttributeError) as error:
        raise BadTask(f"{path.name} is not the set of that name", f"an item has no {error}") from error
    if not all(isinstance(item.prompt, str) and item.answer.strip() for item in found):
        raise BadTask(f"{path.name} is not the set of that name", "an answer is empty")
    return Task(path.stem, found, known.kind, known.note)


def real_tasks(folder: Path) -> tuple[Task, ...]:
    """Every known set under a folder, by name; none is an empty tuple."""
    return tuple(real_task(path) for path in sorted(folder.rglob("*.json*")) if _is_real(path))


# -- files -------------------------------------------------------------------------------------------------------------


def _spaced(answer: str) -> str:
    return answer if answer[:1].isspace() else f" {answer}"


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadTask(f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MiB", next="give a part of it")
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise BadTask(f"{path.name} is no text", "it is not UTF-8", "give a JSONL file") from error
    except OSError as error:
        raise BadTask(f"{path.name} cannot be read", str(error)) from error


def _json(what: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise BadTask(f"{what} is not JSON", why, 'write {"prompt": …, "answer": …} on each line') from error
