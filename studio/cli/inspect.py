"""The verb `inspect`: what each file is, and whether it can be merged."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from studio.cli.output import fail


def add_inspect(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the verb by a subparsers' `add_parser`."""
    verb = add("inspect", help="say what each file is, and whether it can be merged")
    verb.add_argument("paths", nargs="+", metavar="PATH", help="files, folders, Hub ids (owner/name), or loom:NAME")
    verb.add_argument("--json", action="store_true", help="print one list of objects")
    verb.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from studio.formats import inspect
    from studio.recipes.recipe import Source
    from studio.recipes.sources import EMBEDDED, resolve

    found = [inspect(resolve(Source(path=path)) if path.startswith(EMBEDDED) else path) for path in options.paths]
    if options.json:
        print(json.dumps([inspection.to_json() for inspection in found], indent=1))
    else:
        for inspection in found:
            print(inspection.to_text())
    refused = [inspection.path for inspection in found if inspection.verdict == "refused"]
    return fail(f"{len(refused)} of {len(found)} refused: {', '.join(refused)}") if refused else 0
