"""The command line: the same verbs as the page, with the same words. Exit status 0 only on success."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from studio.cli.analogy import add_verb
from studio.cli.learn import add_verbs
from studio.cli.route import add_route
from studio.core.errors import BadRecipe, LoomError
from studio.formats import WRITERS
from studio.merging import method_by_id, methods

if TYPE_CHECKING:
    from studio.composing.report import Report
    from studio.merging import Knob, Method, Value
    from studio.recipes.recipe import Recipe
    from studio.recipes.sources import Sources


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; expected trouble is one line on stderr and status 1, wrong usage status 2."""
    parser = _parser()
    options = parser.parse_args(_with_negative_weights(sys.argv[1:] if arguments is None else arguments))
    _hide_bars()
    _show_any_character()
    try:
        status = _run(options)
    except LoomError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("Stopped; nothing was written.", 130)
    except BrokenPipeError:
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'A file'}: {error.strerror or error}.")
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


def _hide_bars() -> None:
    """No bars of the libraries where nobody watches them: an error is one line on stderr."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _show_any_character() -> None:
    """A name that the terminal cannot show is escaped, where it would else be a defect."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(text: str, status: int = 1) -> int:
    print(f"loom: {' '.join(text.split())}", file=sys.stderr)
    return status


def _defect(error: Exception) -> int:
    if os.environ.get("LOOM_DEBUG"):
        raise error
    return _fail(
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m studio", description="Compose LoRA adapters: inspect, merge, export.")
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)
    inspect = verbs.add_parser("inspect", help="say what each file is, and whether it can be merged")
    inspect.add_argument("paths", nargs="+", metavar="PATH")
    inspect.add_argument("--json", action="store_true", help="print one list of objects")
    inspect.set_defaults(run=_inspect)
    listing = verbs.add_parser("methods", help="list the merge methods and their knobs")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=_methods)
    _merge_arguments(verbs.add_parser("merge", help="merge adapters, or run a recipe"))
    add_verbs(verbs.add_parser)
    add_verb(verbs.add_parser)
    add_route(verbs.add_parser)
    return parser


def _merge_arguments(merge: argparse.ArgumentParser) -> None:
    merge.add_argument("paths", nargs="+", metavar="PATH", help="adapters, Hub ids (owner/name), or one recipe.yaml")
    merge.add_argument("-o", "--out", required=True, type=Path, metavar="OUT", help="folder or .zip to write")
    merge.add_argument("--method", choices=[*methods()], help="default: cat")
    merge.add_argument(
        "--weights", type=_numbers, metavar="W,W,…", help="one for each adapter, by comma; default: the method's own"
    )
    merge.add_argument("--scale", type=float, help="multiply the result (lambda); default 1")
    merge.add_argument("--k", help="clusters of lego; the same as --set k=…")
    merge.add_argument("--rank", help="rank of the result; the same as --set rank=…")
    merge.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="set a knob; see `methods`")
    merge.add_argument("--seed", type=int)
    merge.add_argument("--extras", metavar="NAME", help="carry heads and biases of this source")
    merge.add_argument(
        "--other-bases", action="store_true", default=None, help="merge adapters of different base models"
    )
    merge.add_argument("--format", choices=[*WRITERS], default="peft")
    merge.add_argument("--base-config", type=Path, metavar="JSON", help="the base's config.json, for GGUF")
    merge.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    merge.add_argument("--save-recipe", type=Path, metavar="YAML", help="write the recipe too")
    merge.add_argument("--json", action="store_true", help="print the report")
    merge.set_defaults(run=_merge)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0.5,0.5") from None


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
    return _fail(f"{len(refused)} of {len(found)} refused: {', '.join(refused)}") if refused else 0


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


def _merge(options: argparse.Namespace) -> int:
    from studio.composing.compose import compose
    from studio.composing.export import export
    from studio.core.outputs import require_place
    from studio.formats.writers.save import require_export_place
    from studio.recipes.recipe import is_recipe, placed
    from studio.recipes.sources import open_sources

    recipe = _recipe(options)
    require_export_place(options.out, options.format)
    require_place(options.save_recipe, "a recipe that the studio wrote", is_recipe)
    sources = open_sources(recipe)
    recipe = _pinned(recipe, sources)
    progress = None if options.json or not sys.stderr.isatty() else _progress
    composition = compose(recipe, sources, on_step=progress)
    written = export(
        composition, recipe, options.out, format=options.format, dtype=options.dtype, base_config=options.base_config
    )
    if options.save_recipe:
        placed(recipe, options.save_recipe.parent, for_others=False).save(options.save_recipe)
    print(json.dumps(composition.report.to_json(), indent=1) if options.json else _summary(composition.report, written))
    return 0


def _recipe(options: argparse.Namespace) -> Recipe:
    from studio.recipes.recipe import load, parse
    from studio.recipes.sources import source_fields

    recipes = [path for path in options.paths if Path(path).suffix in {".yaml", ".yml"}]
    if recipes and len(options.paths) > 1:
        raise BadRecipe("A recipe names its own sources", next="give the recipe alone, or the adapters alone")
    content: dict[str, Any] = (
        load(Path(recipes[0])).model_dump() if recipes else {"sources": [source_fields(path) for path in options.paths]}
    )
    method = options.method or content.get("method", "cat")
    knobs = content.get("knobs", {}) if method == content.get("method") else {}
    content |= {"method": method, "knobs": {**knobs, **_knobs(options, method)}}
    for name in ("seed", "scale", "extras", "other_bases"):
        if getattr(options, name) is not None:
            content[name] = getattr(options, name)
    if options.weights is not None:
        if len(options.weights) != len(content["sources"]):
            raise BadRecipe(
                f"{len(options.weights)} weights for {len(content['sources'])} adapters", next="give one for each"
            )
        content["sources"] = [{**s, "weight": w} for s, w in zip(content["sources"], options.weights, strict=True)]
    return parse(content)


def _knobs(options: argparse.Namespace, method: str) -> dict[str, Value]:
    pairs = [item.partition("=") for item in options.set]
    given: dict[str, str] = {name: value for name, _, value in pairs}
    given |= {name: getattr(options, name) for name in ("k", "rank") if getattr(options, name) is not None}
    known: Mapping[str, Knob] = method_by_id(method).knobs
    method_by_id(method).check(
        {name: known[name].parse(value) if name in known else value for name, value in given.items()}
    )
    return {name: known[name].parse(value) for name, value in given.items()}


def _pinned(recipe: Recipe, sources: Sources) -> Recipe:
    """The recipe with the name and content hash of each source, so that it can be repeated."""
    from studio.recipes.sources import pinned

    found = [
        pinned(source, adapter, digest)
        for source, digest, adapter in zip(recipe.sources, sources.hashes, sources.adapters, strict=True)
    ]
    return recipe.model_copy(update={"sources": tuple(found)})


def _progress(done: int, total: int, module: str) -> None:
    end = "\n" if done == total else ""
    print(f"\r{done}/{total} modules", end=end, file=sys.stderr, flush=True)


def _summary(report: Report, written: Path) -> str:
    to_sum = "" if report.cosine_to_sum is None else f", cosine to the exact sum {report.cosine_to_sum:.4f}"
    lines = [
        f"{written}: {len(report.modules)} modules, rank {report.rank}, kept energy {report.kept_energy:.2%}{to_sum}, "
        f"norm {report.norm_before:.4g} -> {report.norm_after:.4g}, {report.seconds:.2f} s",
        *(
            f"  {source.name}: weight {source.weight:g}, norm {source.norm:.4g}, ranks {source.ranks}"
            for source in report.sources
        ),
        *(f"  warning: {warning}" for warning in report.warnings),
    ]
    return "\n".join(lines)
