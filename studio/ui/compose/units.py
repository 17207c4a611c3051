"""The map of units: scope, colour and form, the layout by PCA and then UMAP, and what an edit moves on it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr
import numpy as np

from studio.core.errors import Cancelled
from studio.core.late import torch
from studio.recipes.recipe import View
from studio.session.jobs import Job
from studio.session.workspace import Workspace
from studio.ui.compose.layouts import Layouts
from studio.ui.compose.map import COLOURS, centroid_payload, map_payload, muted_payload, unit_map
from studio.ui.shell.panel import EDIT, PRIVATE, Shared, shows_errors, shows_errors_while
from studio.units import Units, cluster_units, drawn, nearest, place

_ALL = "all"
_POLL = 0.1  # seconds
_PATIENCE = 0.4  # seconds until the map shows that it is reading
_FORMS = [
    ("canonical: singular directions, free of training luck", "canonical"),
    ("raw: rows as trained, which LEGO as published clusters", "raw"),
]
_PICTURE: dict[str, Any] = {**PRIVATE, "trigger_mode": "always_last", "show_progress": "hidden", "concurrency_limit": 8}


class UnitsPanel:
    """Shows the units of the library."""

    def __init__(self, shared: Shared, layouts: Layouts) -> None:
        self.shared, self.layouts = shared, layouts
        with gr.Row(elem_id="map-bar", elem_classes="beside"):
            self.scope = gr.Dropdown(
                [("all modules", _ALL)], value=_ALL, label="Show", elem_id="scope", min_width=120, scale=3
            )
            self.colour = gr.Dropdown(
                list(COLOURS), value="source", label="Colour", min_width=100, scale=2, elem_id="colour"
            )
            self.form = gr.Dropdown(_FORMS, value="canonical", label="Units", min_width=100, scale=2, elem_id="form")
        self.map = unit_map(height=272, elem_id="map")

    def components(self) -> list[Any]:
        """Controls that the recipe sets."""
        return [self.scope, self.colour, self.form]

    def controls(self, workspace: Workspace) -> dict[Any, Any]:
        """Scope, colour and form as the recipe's view has them."""
        view = workspace.recipe.view
        choices = [
            ("all modules", _ALL),
            *((f"layer {x}", x) for x in workspace.layers()),
            *((x, x) for x in workspace.module_names()),
        ]
        scope = view.scope if view.scope in {value for _, value in choices} else _ALL
        return {self.scope: gr.update(choices=choices, value=scope), self.colour: _colour(view), self.form: view.form}

    def wire(self) -> None:
        """Connect the listeners."""
        token, version, picture = self.shared.token, self.shared.version, self.shared.picture
        self.colour.input(self.on_colour, [token, self.colour], self.map, **EDIT)
        self.scope.input(partial(self.on_view, "scope"), [token, self.scope], picture, **EDIT)
        self.form.input(partial(self.on_view, "form"), [token, self.form], picture, **EDIT)
        picture.change(self.on_picture, [token], self.map, **_PICTURE)
        version.change(self.on_version, [token], self.map, **_PICTURE)

    @shows_errors
    def on_colour(self, token: str, colour: str) -> Any:
        """Colour by something else; the points stay."""
        workspace = self.shared.workspace(token)
        if colour == _colour(workspace.recipe.view):
            return {}
        workspace.look(colour="module" if colour == "type" else colour)
        return gr.update(colour=colour, **self.moving(workspace))

    @shows_errors
    def on_view(self, name: str, token: str, value: str) -> Any:
        """Show another part, or the units in another form."""
        workspace = self.shared.workspace(token)
        if value == getattr(workspace.recipe.view, name):
            return {}
        workspace.look(**{name: value})
        workspace.touch()
        return workspace.picture()

    @shows_errors_while
    def on_picture(self, token: str) -> Iterator[Any]:
        """Lay the units out: by PCA at once, then by UMAP in its place."""
        workspace = self.shared.workspace(token)
        if not workspace.recipe.sources:
            yield gr.update(value=None, centroids=False, muted=False, picked=[], note="")
            return
        job = Job(workspace.units)
        while not job.wait(_PATIENCE):
            done, total, _ = job.progress
            yield gr.update(note=f"Reading the units: {done} of {total or '?'} modules…")
        try:
            units: Units = job.result()
        except Cancelled:
            return
        if not self.layouts.has(units):
            yield self.drawing(workspace, units, f"PCA. {self.shared.warm.status() or 'UMAP is on its way…'}")
            job = Job(partial(self.layouts.make, units))
            while not job.wait(_POLL):
                if workspace.units_at_hand() is not units:  # the map shows something else now
                    return
            job.result()
        if workspace.units_at_hand() is units:
            yield self.drawing(workspace, units, _counted(units))

    @shows_errors
    def on_version(self, token: str) -> Any:
        """The recipe changed: centroids and muted units move, the cloud stays."""
        workspace = self.shared.workspace(token)
        return gr.update(picked=[], **self.moving(workspace)) if workspace.recipe.sources else gr.update()

    def drawing(self, workspace: Workspace, units: Units, note: str) -> Any:
        """Everything on the map, with the best layout there is."""
        rows = drawn(units.table.energy)
        near = nearest(units.grams, len(units.table))
        view = workspace.recipe.view
        frame = f"{id(units)}/{view.form}/{view.scope}"
        points = map_payload(units.table, self.layouts.positions(units), near, rows=rows, frame=frame)
        return gr.update(value=points, colour=_colour(view), picked=[], note=note, **self.moving(workspace))

    def moving(self, workspace: Workspace) -> dict[str, Any]:
        """What an edit moves: muted units, and the centroids where the method or the colour asks for clusters."""
        units = workspace.units_at_hand()
        if units is None or not len(units.table):
            return {}
        rows, factors = drawn(units.table.energy), workspace.factors()
        muted = {"muted": muted_payload((factors == 0)[rows].astype(np.uint8))}
        if workspace.recipe.method != "lego" and workspace.recipe.view.colour != "cluster":
            return {**muted, "centroids": False}
        labels = clusters_of(workspace, units, factors)
        centres = place(_groups(units, labels, rows), self.layouts.positions(units))
        return {**muted, "centroids": centroid_payload(centres, labels[rows])}


def clusters_of(workspace: Workspace, units: Units, factors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The LEGO cluster of every unit on the map, -1 for muted ones, with the recipe's weights, k and restarts."""
    recipe, table = workspace.recipe, units.table
    knobs = recipe.chosen.check(recipe.knobs) if recipe.method == "lego" else {}
    k = int(knobs.get("k", 0)) or max(adapter.rank for adapter in workspace.adapters)
    names = [spot.name for spot in table.places]
    weights = np.array(
        [[s.weight_for(n, w) for n in names] for s, w in zip(recipe.sources, recipe.weights, strict=True)]
    )
    own = torch.from_numpy(weights[table.adapter, table.module] * factors)
    restarts = int(knobs.get("restarts", 10))
    labels = cluster_units(units.grams, len(table), k, weights=own, n_init=restarts, seed=recipe.seed).numpy()
    return np.where(own.numpy() == 0, -1, labels)


def _groups(units: Units, labels: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One group for each cluster of each module: clusters never cross modules."""
    most = int(labels.max(initial=0)) + 1
    groups = np.where(labels >= 0, units.table.module.astype(np.int64) * most + labels, -1)
    return np.asarray(groups[rows])


def _colour(view: View) -> str:
    """The map's name for what it is coloured by; a recipe says `module` for the module type."""
    return "type" if view.colour == "module" else view.colour


def _counted(units: Units) -> str:
    count = len(units.table)
    shown = len(drawn(units.table.energy))
    most = f", the {shown:,} of most energy shown" if shown < count else ""
    return f"UMAP of {count:,} {units.table.form} units{most}. Nearness is not similarity: hover for true cosines."
