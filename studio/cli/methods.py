"""The verb `methods`: the merge methods and their knobs, for people or as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from studio.merging import methods

if TYPE_CHECKING:
    from studio.merging import Knob, Method


def add_methods(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the verb by a subparsers' `add_parser`."""
    verb = add("methods", help="list the merge methods and their knobs")
    verb.add_argument("--json", action="store_true", help="print one list of objects")
    verb.set_defaults(run=_methods)


def _methods(options: argparse.Namespace) -> int:
    if options.json:
        print(json.dumps([_method_json(found) for found in methods().values()], indent=1))
        return 0
    for found in methods().values():
        print(f"{found.id:8} {found.summary}")
        for knob in found.knobs.values():
            print(f"         {knob.name}={_shown(knob)}  {knob.help}")
    return 0


def _method_json(found: Method) -> dict[str, Any]:
    return {
        "id": found.id,
        "title": found.title,
        "summary": found.summary,
        "source": found.source,
        "tier": found.tier,
        "space": found.space,
        "default_weight": found.default_weight,
        "max_sources": found.max_sources,
        "signed": found.signed,
        "laws": {name: getattr(found.laws, name) for name in ("identity", "order", "exact", "gauge", "homogeneous")},
        "knobs": [_knob_json(knob) for knob in found.knobs.values()],
    }


def _knob_json(knob: Knob) -> dict[str, Any]:
    about: dict[str, Any] = {
        "name": knob.name,
        "title": knob.title,
        "kind": knob.kind,
        "default": knob.default,
        "help": knob.help,
    }
    if knob.range:
        return about | {
            "low": knob.range.low,
            "high": knob.range.high,
            "step": knob.range.step,
            "auto": knob.range.auto,
        }
    return about | ({"choices": list(knob.choices)} if knob.choices else {})


def _shown(knob: Knob) -> str:
    if knob.choices:
        return "|".join(knob.choices)
    return f"{knob.default}" if knob.range is None else f"{knob.default} ({knob.range.low:g}…{knob.range.high:g})"
