"""The verb `route` of the command line: train a router over adapters, judge it, or let one write."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.core.errors import BadRecipe, LoomError
from studio.formats import save_adapter
from studio.routing.kinds import kinds, trainable

if TYPE_CHECKING:
    from studio.core.adapter import Adapter
    from studio.routing.answer import Writing
    from studio.routing.comparison import Lesson
    from studio.routing.items import Labelled
    from studio.routing.router import Router
    from studio.routing.text import Judged, Shape, TextWorld
    from studio.routing.train import Settings, Step, Trained
    from studio.text.bases import TextBase
    from studio.text.decoding import Decoding

_BESIDE = f"judge these too: {', '.join(kinds())}, oracle, arrow, xlora"


def add_route(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the verb by a subparsers' `add_parser`."""
    route = add("route", help="train a router that chooses adapters for each prompt, or use one")
    route.add_argument("paths", nargs="+", metavar="PATH", help="adapters, Hub ids (owner/name), loom:NAME")
    route.add_argument("--base", help="folder or Hub id of the base model; default: the one the adapters name")
    route.add_argument("--examples", metavar="TASK", help="train on SKILL,SKILL,… or a JSONL of prompts and answers")
    route.add_argument("--count", type=int, default=40, help="items of each skill, or of the file; default 40")
    route.add_argument("--test", metavar="TASK", help="judge it by SKILL,SKILL:SPLIT, or another JSONL")
    route.add_argument("--n", type=int, default=40, help="test items of each skill, or of the file; default 40")
    route.add_argument("--router", type=Path, metavar="FILE", help="use this router, instead of training one")
    route.add_argument("--prompt", metavar="TEXT", help="continue this by the router")
    route.add_argument("--tokens", type=int, default=40, help="of the continuation; default 40")
    route.add_argument("-o", "--out", type=Path, metavar="FILE", help="the router to write, safetensors")
    route.add_argument(
        "--out-adapters", type=Path, metavar="FOLDER", help="train the adapters too, and write them here"
    )
    _router_arguments(route)
    route.add_argument("--beside", default="", metavar="NAME,…", help=_BESIDE)
    route.add_argument("--seed", type=int, default=0, help="of everything that is drawn; default 0")
    route.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    route.set_defaults(run=_route)


def _router_arguments(route: argparse.ArgumentParser) -> None:
    route.add_argument("--kind", choices=tuple(trainable()), default="remix", help="the kind of router")
    route.add_argument("--k", type=int, default=1, help="adapters for each decision; default 1")
    route.add_argument("--omega", type=float, default=1.0, help="the weight of a chosen adapter; default 1")
    route.add_argument("--samples", type=int, default=4, help="M, selections drawn of each example; default 4")
    route.add_argument(
        "--granularity", choices=("sequence", "token"), default="sequence", help="what one decision is for"
    )
    route.add_argument(
        "--reads", choices=("embedding", "hidden", "layer"), default="embedding", help="what it looks at"
    )
    route.add_argument("--with-base", action="store_true", help="the bare base is a choice, too")
    route.add_argument("--entropy", type=float, default=1e-2, help="the entropy bonus; default 0.01")
    route.add_argument("--ratio", type=float, default=5.0, help="router's rate over the adapters'; default 5")
    route.add_argument("--rate", type=float, help="learning rate; default 0.1; 0.001 where adapters are trained")
    route.add_argument("--steps", type=int, default=200, help="steps of training; default 200")
    route.add_argument("--batch", type=int, default=8, help="examples a step; default 8")


def _route(options: argparse.Namespace) -> int:
    from studio.core.outputs import require_place
    from studio.recipes.recipe import parse
    from studio.recipes.sources import open_sources, source_fields
    from studio.routing.items import named_items
    from studio.routing.router import is_router, load_router
    from studio.text.bases import find_base, open_base
    from studio.text.decoding import Decoding

    _check(options)
    require_place(options.out, "a router", is_router)
    adapters = open_sources(parse({"sources": [source_fields(path) for path in options.paths]})).adapters
    router = load_router(options.router) if options.router else None
    decoding = Decoding(max_tokens=options.tokens)
    k = options.k if router is None else router.k
    tested = named_items(options.test, options.n, options.seed + 1, k=k) if options.test else None
    base = open_base(options.base or find_base(adapters))
    lesson, found = None, {}
    if router is None:
        trained, adapters, lesson = _trained(options, base, adapters)
        router, found = trained.router, _run_figures(trained)
    told = {"router": _path(options.out or options.router), "names": router.names} | found
    if tested is not None:
        told["judged"] = _judged(options, base, adapters, router, lesson, tested)
    if options.prompt:
        told["written"] = _written(options, base, adapters, router, decoding)
    if options.json:
        print(json.dumps(told))
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse what could only fail, or do nothing, after minutes of training."""
    if (options.examples is None) == (options.router is None):
        raise BadRecipe("There is nothing to route by", "either --examples or --router is needed", "give one of them")
    from studio.routing.comparison import require_baselines

    names = _beside_names(options)
    if names and not options.test:
        why = "--beside answers the items of --test, and there is no --test"
        raise BadRecipe(f"There is nothing to judge {', '.join(names)} on", why, "give --test SKILL,SKILL:test")
    require_baselines(names)


def _beside_names(options: argparse.Namespace) -> list[str]:
    return [name for name in options.beside.split(",") if name]


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _run_figures(trained: Trained) -> dict[str, Any]:
    """Of a training run: steps, the loss of each, validation losses by step, the measures of the step that was kept."""
    from dataclasses import asdict

    state = trained.state
    best = min(state.valid, key=lambda one: one[1])[0]
    measures = dict(trained.history)[best]
    valid = {"valid": state.valid, "lowest": state.lowest, "kept_step": best}
    return {"steps": state.step, "losses": state.losses} | valid | {"measures": asdict(measures)}


def _shape(options: argparse.Namespace) -> Shape:
    from studio.routing.text import Shape

    return Shape(
        options.k,
        options.omega,
        options.kind,
        options.granularity,
        options.reads,
        options.with_base,
        options.seed,
    )


def _settings(options: argparse.Namespace) -> Settings:
    from studio.learning.fit import Schedule
    from studio.routing.train import Settings

    rate = (1e-3 if options.out_adapters else 0.1) if options.rate is None else options.rate
    every = max(1, options.steps // 10)
    schedule = Schedule(rate, options.steps, options.batch, check_every=every, patience=1000, seed=options.seed)
    return Settings(options.samples, options.entropy, options.ratio, schedule)


def _trained(
    options: argparse.Namespace, base: TextBase, adapters: tuple[Adapter, ...]
) -> tuple[Trained, tuple[Adapter, ...], Lesson | None]:
    """The run, its router written where it was asked for, the adapters as they are then, and what it was trained on."""
    from studio.formats.saving import require_export_place
    from studio.routing.comparison import Lesson
    from studio.routing.items import named_items
    from studio.routing.text import learn_router, text_world

    shape, settings, frozen = _shape(options), _settings(options), options.out_adapters is None
    for adapter in () if frozen else adapters:
        require_export_place(options.out_adapters / adapter.name, "peft")
    items = named_items(options.examples, options.count, options.seed, k=shape.k)
    world = text_world(base, adapters, items, shape, frozen=frozen)
    found = learn_router(world, shape, settings, on_step=_step)
    _say(f"{found.state.step} steps, lowest validation loss {found.state.lowest:.4f}")
    if options.out:
        _say(f"{found.router.save(options.out)}: {len(found.router.names)} choices")
    if not frozen:
        adapters = world.mixture.trained(found.tensors)
        for adapter in adapters:
            save_adapter(adapter, options.out_adapters / adapter.name)
            _say(f"{options.out_adapters / adapter.name}: read back and compared")
    return found, adapters, Lesson(world, shape, settings) if frozen else None


def _judged(
    options: argparse.Namespace,
    base: TextBase,
    adapters: tuple[Adapter, ...],
    router: Router,
    lesson: Lesson | None,
    items: Sequence[Labelled],
) -> dict[str, Any]:
    """Print a line for the router and each beside it, unless JSON is wanted; their figures by name."""
    from studio.routing.answer import check_fits
    from studio.routing.comparison import Trial, beside
    from studio.routing.text import shape_of, text_world

    world = text_world(base, check_fits(router, adapters), items, shape_of(router))
    trial = Trial(world, router.to(base.model.device), lesson)
    rows = dict(beside(trial, _beside_names(options)))
    for name, row in () if options.json else rows.items():
        print(f"{name:10} {row}" if isinstance(row, LoomError) else _line(name, row, world))
    return {name: _figures(row, world) for name, row in rows.items()}


def _figures(row: Judged | LoomError, world: TextWorld) -> dict[str, Any]:
    from dataclasses import asdict

    if isinstance(row, LoomError):
        return {"refused": str(row)}
    return {"exact": 100 * float(row.right.mean()), "names": world.names, "tasks": world.labels.tasks} | asdict(
        row.measures
    )


def _line(name: str, row: Judged, world: TextWorld) -> str:
    found = row.measures
    load = " ".join(f"{choice} {share:.0%}" for choice, share in zip(world.names, found.load, strict=True))
    truth = "" if found.found is None else f"  right choice {found.found:.0%}"
    return (
        f"{name:10} exact {100 * row.right.mean():5.1f} %  loss {found.loss:.3f}  ESS {found.support:.2f} "
        f"(10th percentile {found.support_low:.2f})  H(q) {found.entropy:.2f}{truth}  load: {load}"
    )


def _written(
    options: argparse.Namespace, base: TextBase, adapters: tuple[Adapter, ...], router: Router, decoding: Decoding
) -> list[dict[str, str]]:
    """Let the router write, and print it unless JSON is wanted; each run of tokens with who answered."""
    from studio.routing.answer import write

    *_, found = write(base, adapters, router, options.prompt, decoding)
    runs = _runs(found)
    for run in () if options.json else runs:
        print(f"[{run['by']}]{run['text']}")
    return runs


def _runs(found: Writing) -> list[dict[str, str]]:
    from itertools import groupby

    pieces = zip(found.labels(), found.pieces, strict=True)
    runs = groupby(pieces, key=lambda one: one[0])
    return [{"by": label, "text": "".join(piece.text for _, piece in run)} for label, run in runs]


def _step(step: Step) -> None:
    if sys.stderr.isatty():
        found = step.measures
        end = "\n" if step.step == step.steps else ""
        print(f"\r{step.step}/{step.steps} valid {found.loss:.4f} H(q) {found.entropy:.2f}", end=end, file=sys.stderr)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
