"""The verbs `learn` and `score` of the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from studio.core.errors import BadRecipe
from studio.learning import LEARNERS

if TYPE_CHECKING:
    from studio.evaluation.scoreboard import Entry, Row
    from studio.evaluation.tasks import Task
    from studio.learning.coefficients import Step
    from studio.learning.controls import TargetSettings
    from studio.learning.learners import Learned
    from studio.learning.registry import LearnRequest
    from studio.recipes.recipe import Recipe
    from studio.recipes.sources import Sources
    from studio.text.bases import TextBase

PARAMETERISATIONS = ("free", "softmax", "leaky", "squared", "sigmoid", "affine")
INITS = ("constant", "normal", "uniform", "equal", "target")
GRANULARITIES = ("global", "layer", "sublayer", "module", "rank")
SELECTIONS = ("score", "random", "rank", "cosine", "absolute", "clamp", "quasi_fim", "distance")


def add_verbs(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add both verbs by a subparsers' `add_parser`."""
    _learn_arguments(add("learn", help="learn coefficients from examples, and judge them beside their controls"))
    _score_arguments(add("score", help="score merges, the base and every source at tasks"))


def _common(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("paths", nargs="+", metavar="PATH", help="adapters, Hub ids (owner/name), loom:NAME, or a recipe")
    verb.add_argument("--base", help="folder or Hub id of the base model; default: the one the adapters name")
    verb.add_argument("--n", type=int, default=100, help="items of each test task; default 100")
    verb.add_argument("--seed", type=int, default=0, help="of everything that is drawn; default 0")
    verb.add_argument("--json", action="store_true", help="print the rows as JSON")
    verb.add_argument("--csv", type=Path, metavar="FILE", help="write the rows as CSV too")


def _learn_arguments(learn: argparse.ArgumentParser) -> None:
    _common(learn)
    learn.add_argument("--examples", required=True, metavar="TASK", help="a JSONL of prompts and answers, or a skill")
    learn.add_argument("--count", type=int, default=50, help="examples taken; default 50")
    learn.add_argument("--test", action="append", default=[], metavar="TASK", help="tasks to judge it by, other items")
    learn.add_argument("-o", "--out", required=True, type=Path, metavar="YAML", help="the recipe to write")
    learn.add_argument("--learner", "--way", choices=LEARNERS, default="soup", help="how it learns")
    own = "default: the learner's own"
    learn.add_argument("--parameterisation", choices=PARAMETERISATIONS, help=f"from theta to a coefficient; {own}")
    learn.add_argument("--granularity", choices=GRANULARITIES, help=f"what shares a coefficient; {own}")
    learn.add_argument("--init", choices=INITS, help=f"where the coefficients start; {own}")
    learn.add_argument("--start", type=float, help="theta at the start, for constant and target")
    learn.add_argument("--l1", type=float, help="weight of the mean coefficient in the loss")
    learn.add_argument("--rate", type=float, help=f"learning rate; {own}")
    learn.add_argument("--steps", "--trials", type=int, help=f"steps of training, or trials of a search; {own}")
    learn.add_argument("--batch", type=int, help=f"examples a step; {own}")
    learn.add_argument("--keep", type=int, default=5, help="adapters that are selected; default 5")
    learn.add_argument("--by", choices=SELECTIONS, default="score", help="by what they are selected; default score")
    learn.add_argument("--pool-target", action="store_true", help="train a target LoRA first; it joins those selected")
    learn.add_argument("--target-steps", type=int, default=400, help="steps of the target LoRA; default 400")
    learn.set_defaults(run=_learn)


def _score_arguments(score: argparse.ArgumentParser) -> None:
    _common(score)
    score.add_argument("--task", action="append", required=True, metavar="TASK", help="SKILL[:SPLIT] or a file")
    score.add_argument("--methods", default="cat", metavar="M,M,…", help="merge methods to try; default: cat")
    score.add_argument(
        "--weights",
        default="",
        metavar="W,W;W,W",
        help="weights to try; one number counts for all",
    )
    score.add_argument("--scales", default="1", metavar="S,S,…", help="factors of the whole merge to try; default: 1")
    score.add_argument("--seeds", default="0", metavar="N,N,…", help="for methods that draw")
    score.add_argument("--set", action="append", default=[], metavar="KNOB=V,V", help="values of a knob to try")
    score.add_argument("--own", action="append", default=[], metavar="NAME=TASK", help="a source's own task")
    score.set_defaults(run=_score)


# -- learn -------------------------------------------------------------------------------------------------------------


def _learn(options: argparse.Namespace) -> int:
    from studio.core.outputs import require_place
    from studio.evaluation.scoreboard import Entry
    from studio.evaluation.tasks import named_task
    from studio.formats.saving import require_export_place
    from studio.learning.baselines import controls
    from studio.learning.data import split, unseen
    from studio.learning.learners import coefficients, edited_sources
    from studio.recipes.recipe import is_recipe, placed

    request = _request(options)
    require_place(options.out, "a recipe that the studio wrote", is_recipe)
    require_export_place(_target_folder(options.out) if options.pool_target else None, "peft")
    recipe, sources, base = _opened(options)
    name = (
        options.examples if ":" in options.examples or Path(options.examples).exists() else f"{options.examples}:train"
    )
    given = named_task(name, options.count, options.seed)
    examples = split(given.items, seed=options.seed)
    tasks = [unseen(named_task(test, options.n, options.seed + 1), examples) for test in options.test]
    found = coefficients(base, edited_sources(recipe, sources), examples, request, on_step=_step)
    recipe, sources = _joined(options.out, recipe, sources, found)
    learned = found.into(recipe).changed(name=options.out.stem, base=base.base.id)
    placed(learned, options.out.parent, for_others=False).save(options.out)
    soup = found.soup
    _say(f"{options.out}: lowest loss {min(loss for _, loss in soup.state.valid):.4f}, {soup.state.step} steps")
    if tasks:
        beside = controls(base, recipe, sources, examples, request, target=_target(options), on_part=_say)
        _judged(options, base, recipe, sources, [*beside, Entry("learned", "merge", learned)], tasks)
    return 0


def _request(options: argparse.Namespace) -> LearnRequest:
    """What the flags ask for; raises `BadRecipe` for one that the learner does not use."""
    from studio.learning.learners import learner_by_id
    from studio.learning.registry import LearnRequest

    learner = learner_by_id(options.learner)
    names = ("parameterisation", "granularity", "init", "start", "l1", "rate", "steps", "batch")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if unused := sorted(given.keys() - set(learner.uses)):
        used = ", ".join(f"--{name}" for name in learner.uses)
        raise BadRecipe(f"{learner.id} does not use --{unused[0]}", f"it uses {used}", "leave it out")
    settings = learner.adjusted(**given, seed=options.seed)
    return LearnRequest(learner, settings, options.keep, options.by, _target(options) if options.pool_target else None)


def _target(options: argparse.Namespace) -> TargetSettings:
    from studio.learning.controls import TargetSettings
    from studio.learning.fit import Schedule

    return TargetSettings(schedule=Schedule(3e-4, options.target_steps, options.batch or 8, seed=options.seed))


def _joined(out: Path, recipe: Recipe, sources: Sources, found: Learned) -> tuple[Recipe, Sources]:
    """Recipe and sources with the target LoRA among them, saved beside the recipe, if one was learned with."""
    from studio.recipes.sources import Sources

    if -1 not in found.places:
        return recipe, sources
    target, folder = found.adapters[0], _target_folder(out)
    from studio.formats import save_adapter

    save_adapter(target, folder)
    joined = recipe.changed(sources=[*recipe.model_dump()["sources"], {"path": str(folder), "name": target.name}])
    return joined, Sources((*sources.adapters, target), hashes=(*sources.hashes, None))


def _target_folder(out: Path) -> Path:
    return out.with_name(f"{out.stem}-target")


# -- score -------------------------------------------------------------------------------------------------------------


def _score(options: argparse.Namespace) -> int:
    from studio.evaluation.scoreboard import entry_of, read_sweep
    from studio.evaluation.tasks import named_task

    recipe, sources, base = _opened(options)
    tasks = [named_task(name, options.n, options.seed + 1) for name in options.task]
    pairs = [item.partition("=") for item in options.set]
    sweep = read_sweep(
        recipe.sources,
        options.methods.split(","),
        weights=options.weights,
        scales=options.scales,
        seeds=options.seeds,
        knobs={name: values for name, _, values in pairs},
    )
    given = [entry_of(recipe)] if _is_recipe(options.paths) else []
    entries = given + ([] if given and options.methods == "cat" else [entry_of(one) for one in sweep.recipes()])
    own = {}
    for source, _, name in (item.partition("=") for item in options.own):
        task = named_task(name, options.n, options.seed + 1)
        own[source] = task.name
        if task.name not in {known.name for known in tasks}:
            tasks.append(task)
    _judged(options, base, recipe, sources, entries, tasks, own)
    return 0


# -- both --------------------------------------------------------------------------------------------------------------


def _is_recipe(paths: list[str]) -> bool:
    return len(paths) == 1 and Path(paths[0]).suffix in {".yaml", ".yml"}


def _opened(options: argparse.Namespace) -> tuple[Recipe, Sources, TextBase]:
    from studio.core.outputs import require_place, starts_with
    from studio.evaluation.scoreboard import COLUMNS
    from studio.recipes.recipe import load, parse
    from studio.recipes.sources import open_sources, pinned, source_fields
    from studio.text.bases import find_base, open_base

    require_place(options.csv, "a table of scores", starts_with(",".join(COLUMNS).encode()))
    if _is_recipe(options.paths):
        recipe = load(Path(options.paths[0]))
    else:
        recipe = parse({"sources": [source_fields(path) for path in options.paths]})
    sources = open_sources(recipe)
    recipe = recipe.changed(
        sources=[
            pinned(source, adapter, digest).model_dump()
            for source, adapter, digest in zip(recipe.sources, sources.adapters, sources.hashes, strict=True)
        ]
    )
    return recipe, sources, open_base(options.base or find_base(sources.adapters))


def _judged(
    options: argparse.Namespace,
    base: TextBase,
    recipe: Recipe,
    sources: Sources,
    entries: list[Entry],
    tasks: list[Task],
    own: dict[str, str] | None = None,
) -> None:
    from studio.core.files import write_atomic
    from studio.evaluation.scoreboard import Board, judge

    rows = []
    for row in judge(base, sources, entries, tasks, own=own, pins=recipe.sources):
        rows.append(row)
        if not options.json:
            print(_line(row))
    board = Board(tuple(rows))
    if options.json:
        print(board.to_json(), end="")
    if options.csv:
        write_atomic(options.csv, board.to_csv().encode())


def _line(row: Row) -> str:
    cells = [
        f"{task} {cell.figure.value:.1f}{'%' if cell.kind == 'exact' else ' ppl'} "
        f"[{cell.figure.low:.1f}, {cell.figure.high:.1f}]"
        for task, cell in row.cells.items()
    ]
    keeps = [f"keeps {kept:.0%} of {name}" for name, kept in row.keeps.items() if kept is not None]
    return f"{row.entry.name:32} " + "  ".join(cells + keeps)


def _step(step: Step) -> None:
    if sys.stderr.isatty():
        end = "\n" if step.step == step.steps else ""
        print(f"\r{step.step}/{step.steps} loss {step.loss:.4f} valid {step.valid:.4f}", end=end, file=sys.stderr)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
