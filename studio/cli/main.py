"""The command line: the same verbs as the page, with the same words. Exit status 0 only on success."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from studio.cli.analogy import add_verb as add_analogy
from studio.cli.formats import add_formats
from studio.cli.inspect import add_inspect
from studio.cli.learn import add_verbs as add_learn_and_score
from studio.cli.merge import add_merge
from studio.cli.methods import add_methods
from studio.cli.output import fail, hide_bars, show_any_character
from studio.cli.route import add_route
from studio.cli.ui import add_ui
from studio.core.errors import LoomError
from studio.core.version import VERSION

VERBS = (add_ui, add_inspect, add_formats, add_methods, add_merge, add_learn_and_score, add_route, add_analogy)
_ALONE = ("ui",)  # what `loom` without a verb does


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; expected trouble is one line on stderr and status 1, wrong usage status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments) or list(_ALONE)
    options = parser().parse_args(_with_negative_weights(given))
    hide_bars()
    show_any_character()
    try:
        status = _run(options)
    except LoomError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return fail("Stopped; nothing was written.", 130)
    except BrokenPipeError:
        return 1
    except ModuleNotFoundError as error:
        return fail(f"The package {error.name} is not installed. `pip install lora-loom` brings all that is needed.")
    except OSError as error:
        return fail(f"{error.filename or 'A file'}: {error.strerror or error}.")
    except Exception as error:  # a defect, told in one line all the same; LOOM_DEBUG shows where
        return _defect(error)
    return status


def _run(options: argparse.Namespace) -> int:
    """Run the verb; the libraries' warnings are for who writes code, and `python -W` brings them back."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        status: int = options.run(options)
    return status


def _defect(error: Exception) -> int:
    if os.environ.get("LOOM_DEBUG"):
        raise error
    return fail(
        f"A defect in the studio: {type(error).__name__}: {error}. Set LOOM_DEBUG=1 to see where, and please report it."
    )


def _with_negative_weights(arguments: Sequence[str]) -> list[str]:
    """`--weights -1,2` as `--weights=-1,2`: argparse would take a list that begins with a minus for an option."""
    found: list[str] = []
    for argument in arguments:
        if found and found[-1] == "--weights":
            found[-1] = f"--weights={argument}"
        else:
            found.append(argument)
    return found


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"loom: {message}. See `{self.prog} --help`.\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    found = _Parser(prog="loom", description="Compose LoRA adapters: see, merge, learn, judge, route, export.")
    found.add_argument("--version", action="version", version=f"loom {VERSION}")
    verbs = found.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)
    for add in VERBS:
        add(verbs.add_parser)
    return found
