"""Words that make the project's English hard to read: `python -m tools.prose`, part of `make lint`.

It reads the pages of the repository, the help of the command line, and the texts of errors and findings. The patterns
are few: each is nearly always wrong here, and its message says what to write. Exceptions are in `ALLOWED`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        r"(?<!here )(?<!what )\b(?:is|are) no (?!longer\b|more\b|less\b|one\b)\w+": "write: is not a …",
        r"\banew\b": "write: again, or from scratch",
        r"\bgo(?:es)? on\b": "write: continue, keep or resume",
        r"\btaken? up again\b": "write: resume",
        r"\bstands? (?:beside|twice|in the|in an?|next)\b": "write: is",
        r"\bby now\b": "leave it out",
        r"\bwhoever\b": "say who",
        r"\bnobody else\b": "say who",
        r"\ball the same\b": "write: anyway",
        r"\bnear by\b": "write: nearby",
    }
)
ALLOWED: Mapping[str, str] = MappingProxyType({"goes on the ": "a place, not a continuation"})
_SAYERS = {
    "LoomError",
    "Refused",
    "CannotMerge",
    "BadRecipe",
    "MissingFile",
    "NotAtHand",
    "Cancelled",
    "Finding",
    "Help",
}


class Found(NamedTuple):
    """A pattern in a text: where, the words around it, and what to write."""

    place: str
    words: str
    advice: str

    def __str__(self) -> str:
        return f"{self.place}: …{self.words}… {self.advice}"


def faults(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, words, advice) of every pattern in a text; code in fences and in backticks is not prose."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", lambda code: re.sub(r"[^\n]", "x", code[0]), text, flags=re.DOTALL)
    for pattern, advice in PATTERNS.items():
        for match in re.finditer(pattern, prose, re.IGNORECASE):
            words = prose[max(0, match.start() - 20) : match.end() + 20].replace("\n", " ")
            if not any(allowed in words for allowed in ALLOWED):
                yield prose.count("\n", 0, match.start()) + 1, words, advice


def pages() -> list[Path]:
    """The pages that people read."""
    patterns = ("*.md", "docs/**/*.md", "assets/**/*.md", ".github/**/*.md")
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def said(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of the strings in a module that a person reads: errors, findings, knobs' help, arguments' help."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            speaks = name in _SAYERS
            given = [value for keyword in node.keywords if speaks or keyword.arg == "help" for value in [keyword.value]]
            for part in [*(node.args if speaks else []), *given]:
                yield from ((word.lineno, word.value) for word in ast.walk(part) if _is_text(word))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def found() -> Iterator[Found]:
    """Every fault in the repository."""
    for path in pages():
        for line, words, advice in faults(path.read_text(encoding="utf-8")):
            yield Found(f"{path.relative_to(ROOT)}:{line}", words, advice)
    for path in sorted((ROOT / "studio").rglob("*.py")):
        for line, text in said(path):
            for _, words, advice in faults(text):
                yield Found(f"{path.relative_to(ROOT)}:{line}", words, advice)


if __name__ == "__main__":
    listed = list(found())
    print(*listed, sep="\n")
    sys.exit(bool(listed))
