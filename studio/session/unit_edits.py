"""Edits of single units, as a recipe holds them: the factor of each by module and rank, in one form a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from studio.core.errors import LoomError
from studio.recipes.recipe import Recipe
from studio.units.table import UnitTable

Factors = np.ndarray[Any, np.dtype[np.float32]]


def scaled(recipe: Recipe, table: UnitTable, ids: Sequence[int], factor: float) -> Recipe:
    """The recipe with the factor of some units of the table set (0 mutes, 1 restores).

    Raises `LoomError` where units of the other form are edited already.
    """
    sources = list(recipe.model_dump()["sources"])
    for unit in ids:
        edits = sources[table.adapter[unit]]["units"]
        if edits["scale"] and edits["form"] != table.form:
            raise LoomError(
                f"Units of {table.adapters[table.adapter[unit]]} are edited in {edits['form']} form",
                f"the map shows {table.form} units, which are other ones",
                f"show {edits['form']} units, or clear the edits first",
            )
        edits["form"] = table.form
        module = edits["scale"].setdefault(table.places[table.module[unit]].name, {})
        module[int(table.rank[unit])] = factor
    return recipe.changed(sources=[_tidy(source) for source in sources])


def cleared(recipe: Recipe) -> Recipe:
    """The recipe without any edit of units."""
    return recipe.changed(sources=[{**source, "units": {}} for source in recipe.model_dump()["sources"]])


def factors(recipe: Recipe, table: UnitTable) -> Factors:
    """The factor of every unit of the table (N,), as the recipe has it in the table's form; others are 1."""
    found = np.ones(len(table), np.float32)
    owner = table.module.astype(np.int64) * len(table.adapters) + table.adapter  # ascending: the table's order
    for module, place in enumerate(table.places):
        for index, source in enumerate(recipe.sources):
            scales = source.units.scale.get(place.name)
            if scales and source.units.form == table.form:
                first, end = np.searchsorted(owner, module * len(table.adapters) + index + np.arange(2))
                found[first:end] = [scales.get(int(rank), 1.0) for rank in table.rank[first:end]]
    return found


def _tidy(source: Mapping[str, Any]) -> dict[str, Any]:
    """The source without unit factors of 1, which say nothing."""
    scale = {m: {t: f for t, f in units.items() if f != 1.0} for m, units in source["units"]["scale"].items()}
    kept = {module: units for module, units in scale.items() if units}
    return {**source, "units": {"form": source["units"]["form"], "scale": kept} if kept else {}}
