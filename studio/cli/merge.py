"""The verb `merge`: merge adapters, or run a recipe, and export the result."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.core.errors import BadRecipe
from studio.formats import WRITERS
from studio.merging import method_by_id, methods

if TYPE_CHECKING:
    from studio.composing.report import Report
    from studio.merging import Knob, Value
    from studio.recipes.recipe import Recipe
    from studio.recipes.sources import Sources


def add_merge(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the verb by a subparsers' `add_parser`."""
    merge = add("merge", help="merge adapters, or run a recipe")
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
    merge.add_argument("--seed", type=int, help="for methods that draw; default 0")
    merge.add_argument("--extras", metavar="NAME", help="carry heads and biases of this source")
    merge.add_argument(
        "--other-bases", action="store_true", default=None, help="merge adapters of different base models"
    )
    merge.add_argument("--format", choices=[*WRITERS], default="peft", help="see `formats`; default peft")
    merge.add_argument("--base-config", type=Path, metavar="JSON", help="the base's config.json, for GGUF")
    merge.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="of the result")
    merge.add_argument("--save-recipe", type=Path, metavar="YAML", help="write the recipe too")
    merge.add_argument("--json", action="store_true", help="print the report")
    merge.set_defaults(run=_merge)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0.5,0.5") from None


def _merge(options: argparse.Namespace) -> int:
    from studio.composing.compose import compose
    from studio.composing.export import export
    from studio.core.outputs import require_place
    from studio.formats.saving import require_export_place
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
