"""The command line in Markdown, verb by verb, from its own parser: docs/reference/cli.md."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from studio.cli.main import parser

_TOLD = re.compile(r"(?:^|; )default:? (?P<default>.+)$")


def sections() -> dict[str, Callable[[], str]]:
    """The whole of the command line under one mark."""
    return {"command line": command_line}


def command_line() -> str:
    """A heading, a line and a table of arguments for each verb, in the order of `loom --help`."""
    # argparse offers no public way to ask a parser what it takes.
    verbs = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    about = {choice.dest: choice.help or "" for choice in verbs._choices_actions}
    return "\n\n".join(_verb(name, about[name], verb) for name, verb in verbs.choices.items())


def _verb(name: str, about: str, verb: argparse.ArgumentParser) -> str:
    rows = [_row(action) for action in verb._actions if not isinstance(action, argparse._HelpAction)]
    return "\n".join(
        [f"## loom {name}", "", _sentence(about), "", "| argument | default | |", "| --- | --- | --- |", *rows]
    )


def _row(action: argparse.Action) -> str:
    text = action.help or ""
    told = _TOLD.search(text)
    default = told["default"] if told else _default(action)
    parts = [_sentence(_TOLD.sub("", text)), f"One of {', '.join(map(str, action.choices))}." if action.choices else ""]
    cells = (_name(action), default, " ".join(part for part in parts if part))
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _name(action: argparse.Action) -> str:
    """The argument as one types it; of a flag, or where there are choices, without a word for its value."""
    bare = action.nargs == 0 or (action.choices is not None and action.metavar is None)
    value = "" if bare else f"`{action.metavar or action.dest.upper()}`"
    names = ", ".join(f"`{option}`" for option in action.option_strings)
    return " ".join(part for part in (names, value, "…" if action.nargs == "+" else "") if part)


def _default(action: argparse.Action) -> str:
    if action.required and action.option_strings:
        return "required"
    return "" if action.default in (None, "", []) or action.default is False else f"{action.default}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
