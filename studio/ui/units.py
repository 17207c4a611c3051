"""The map of units: colour, scope, form; a lasso or a click mutes, keeps or scales the bricks of the merge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import gradio as gr
import numpy as np

from studio.desk import Desk
from studio.errors import Cancelled, LoomError
from studio.late import torch
from studio.ui.layouts import Layouts
from studio.ui.map import COLOURS, centroid_payload, map_payload, muted_payload, picked_ids, unit_map
from studio.ui.panel import EDIT, PRIVATE, Job, Shared, told, told_while
from studio.units import Units, cluster_units, drawn, nearest, place

_LISTED = 200  # selected units in the table under the map
_ALL = "all"
_HINT = "Lasso or click units to act on them."
_POLL = 0.1  # seconds
_PATIENCE = 0.4  # seconds until the map shows that it is reading


class UnitsPanel:
    """Shows the units, and acts on those that were picked."""

    def __init__(self, shared: Shared, layouts: Layouts) -> None:
        self.shared, self.layouts = shared, layouts
        with gr.Column(scale=7, min_width=340, elem_id="units"):
            with gr.Row(elem_id="map-bar"):
                self.scope = gr.Dropdown(
                    [("all modules", _ALL)], value=_ALL, label="Show", elem_id="scope", min_width=120, scale=3
                )
                self.colour = gr.Dropdown(
                    list(COLOURS), value="source", label="Colour by", min_width=100, scale=2, elem_id="colour"
                )
                self.form = gr.Dropdown(
                    [("canonical", "canonical"), ("raw", "raw")],
                    value="canonical",
                    label="Units",
                    info=None,
                    min_width=100,
                    scale=2,
                    elem_id="form",
                )
            self.map = unit_map(height=272, elem_id="map")
            with gr.Row(elem_id="selection-bar"):
                self.selected = gr.HTML(_HINT, elem_id="selected", min_width=150)
                self.mute = gr.Button("Mute", size="sm", min_width=56, scale=0, elem_id="mute")
                self.keep = gr.Button("Keep only", size="sm", min_width=78, scale=0, elem_id="keep")
                self.factor = gr.Number(
                    0.5,
                    label="Factor for Scale",
                    show_label=False,
                    container=False,
                    minimum=-10,
                    maximum=10,
                    step=0.1,
                    min_width=70,
                    scale=0,
                    elem_id="factor",
                )
                self.rescale = gr.Button("Scale", size="sm", min_width=56, scale=0, elem_id="rescale")
                self.restore = gr.Button("Clear edits", size="sm", min_width=84, scale=0, elem_id="restore")
            with gr.Accordion("Selected units", open=False):
                self.listed = gr.Dataframe(
                    headers=["adapter", "module", "rank index", "energy", "factor"],
                    interactive=False,
                    max_height=200,
                    show_label=False,
                    elem_id="listed",
                )

    def components(self) -> list[Any]:
        """Controls that the recipe sets."""
        return [self.scope, self.colour, self.form]

    def controls(self, desk: Desk) -> dict[Any, Any]:
        """Scope, colour and form as the recipe's view has them."""
        view = desk.recipe.view
        choices = [
            ("all modules", _ALL),
            *((f"layer {x}", x) for x in desk.layers()),
            *((x, x) for x in desk.module_names()),
        ]
        scope = view.scope if view.scope in {value for _, value in choices} else _ALL
        colour = "type" if view.colour == "module" else view.colour
        return {self.scope: gr.update(choices=choices, value=scope), self.colour: colour, self.form: view.form}

    def wire(self) -> None:
        """Connect the listeners."""
        token, version, picture = self.shared.token, self.shared.version, self.shared.picture
        self.colour.input(self.on_colour, [token, self.colour], self.map, **EDIT)
        for name, control in {"scope": self.scope, "form": self.form}.items():
            control.input(self.on_scope if name == "scope" else self.on_form, [token, control], picture, **EDIT)
        last = {**PRIVATE, "trigger_mode": "always_last", "show_progress": "hidden"}
        picture.change(self.on_picture, [token], self.map, concurrency_limit=8, **last)
        version.change(self.on_version, [token], self.map, concurrency_limit=8, **last)
        for counter in (version, picture):
            counter.change(self.on_selection, [token], [self.selected, self.listed], **EDIT)
        chosen = [self.map, self.selected, self.listed]
        self.map.pick(self.on_pick, [token], chosen, **EDIT)
        self.map.clear(self.on_clear, [token], chosen, **EDIT)
        done = [version, *chosen]
        self.mute.click(self.on_mute, [token], done, **EDIT)
        self.keep.click(self.on_keep, [token], done, **EDIT)
        self.rescale.click(self.on_rescale, [token, self.factor], done, **EDIT)
        self.restore.click(self.on_restore, [token], done, **EDIT)

    # What is shown ---------------------------------------------------------------------------------------------------

    @told
    def on_colour(self, token: str, colour: str) -> Any:
        """Colour by something else; the points stay."""
        desk = self.shared.desk(token)
        named = "module" if colour == "type" else colour
        if named == desk.recipe.view.colour:
            return {}
        desk.look(colour=named)
        return gr.update(colour=colour, **self.moving(desk))

    @told
    def on_scope(self, token: str, scope: str) -> Any:
        """Show another part."""
        desk = self.shared.desk(token)
        if scope == desk.recipe.view.scope:
            return {}
        desk.look(scope=scope)
        desk.version += 1
        return desk.version

    @told
    def on_form(self, token: str, form: str) -> Any:
        """Show the units in another form."""
        desk = self.shared.desk(token)
        if form == desk.recipe.view.form:
            return {}
        desk.look(form=form)
        desk.version += 1
        return desk.version

    @told_while
    def on_picture(self, token: str) -> Iterator[Any]:
        """Lay the units out: by PCA at once, then by UMAP in its place."""
        desk = self.shared.desk(token)
        if not desk.recipe.sources:
            yield gr.update(value=None, centroids=False, muted=False, picked=[], note="")
            return
        job = Job(desk.units)
        while not job.wait(_PATIENCE):
            done, total, _ = job.progress
            yield gr.update(note=f"Reading the units: {done} of {total or '?'} modules…")
        try:
            units = job.result()
        except Cancelled:
            return
        colour = "type" if desk.recipe.view.colour == "module" else desk.recipe.view.colour
        if not self.layouts.has(units):
            said = f"PCA. {self.shared.warm.said() or 'UMAP is on its way…'}"
            yield gr.update(value=self.picture(desk, units), colour=colour, picked=[], note=said, **self.moving(desk))
            job = Job(partial(self.layouts.make, units))
            while not job.wait(_POLL):
                if desk.units_at_hand() is not units:  # the map shows something else by now
                    return
            job.result()
        if desk.units_at_hand() is units:
            yield gr.update(
                value=self.picture(desk, units), colour=colour, picked=[], note=_counted(units), **self.moving(desk)
            )

    @told
    def on_version(self, token: str) -> Any:
        """The recipe changed: centroids and muted units move, the cloud stays."""
        desk = self.shared.desk(token)
        return gr.update(picked=[], **self.moving(desk)) if desk.recipe.sources else gr.update()

    def picture(self, desk: Desk, units: Units) -> dict[str, Any]:
        """The points of the map with the best layout there is."""
        rows = drawn(units.table.energy)
        near = nearest(units.grams, len(units.table))
        view = desk.recipe.view
        frame = f"{id(units)}/{view.form}/{view.scope}"
        return map_payload(units.table, self.layouts.positions(units), near, rows=rows, frame=frame)

    def moving(self, desk: Desk) -> dict[str, Any]:
        """What an edit moves: muted units, and the centroids where the method or the colour asks for clusters."""
        units = desk.units_at_hand()
        if units is None or not len(units.table):
            return {}
        rows = drawn(units.table.energy)
        factors = np.array(desk.factors(), np.float32)
        muted = {"muted": muted_payload((factors == 0)[rows].astype(np.uint8))}
        if desk.recipe.method != "lego" and desk.recipe.view.colour != "cluster":
            return {**muted, "centroids": False}
        labels = clusters_of(desk, units, factors)
        centres = place(_groups(units, labels, rows), self.layouts.positions(units))
        return {**muted, "centroids": centroid_payload(centres, labels[rows])}

    # What is picked --------------------------------------------------------------------------------------------------

    @told
    def on_pick(self, token: str, event: gr.EventData) -> list[Any]:
        """Units were picked on the map."""
        desk = self.shared.desk(token)
        rows = drawn(_shown(desk).table.energy)
        picked = picked_ids(event, len(rows))
        desk.selection = tuple(int(rows[i]) for i in picked)
        return [gr.update(picked=list(picked)), *self.listing(desk)]

    @told
    def on_clear(self, token: str) -> list[Any]:
        """The selection was cleared."""
        desk = self.shared.desk(token)
        desk.selection = ()
        return [gr.update(picked=[]), *self.listing(desk)]

    @told
    def on_selection(self, token: str) -> list[Any]:
        """The recipe or the picture changed, which ends the selection: say so."""
        return self.listing(self.shared.desk(token))

    @told
    def on_mute(self, token: str) -> list[Any]:
        """Mute what is selected."""
        desk = self.shared.desk(token)
        chosen = _chosen(desk)
        desk.scale_units(chosen, 0.0, f"mute {len(chosen)} units")
        return self.edited(desk)

    @told
    def on_keep(self, token: str) -> list[Any]:
        """Mute everything on the map that is not selected."""
        desk = self.shared.desk(token)
        desk.keep_only(_chosen(desk))
        return self.edited(desk)

    @told
    def on_rescale(self, token: str, factor: float | None) -> list[Any]:
        """Scale what is selected."""
        desk = self.shared.desk(token)
        if factor is None:
            raise LoomError("No factor was given", next="write a number beside Scale")
        chosen = _chosen(desk)
        desk.scale_units(chosen, float(factor), f"scale {len(chosen)} units")
        return self.edited(desk)

    @told
    def on_restore(self, token: str) -> list[Any]:
        """Undo every unit edit."""
        desk = self.shared.desk(token)
        desk.clear_units()
        return self.edited(desk)

    def edited(self, desk: Desk) -> list[Any]:
        """After an edit of units: the next version, the map, and an empty selection."""
        return [desk.version, gr.update(picked=[], **self.moving(desk)), *self.listing(desk)]

    def listing(self, desk: Desk) -> list[Any]:
        """The selection in words and as a table."""
        chosen = desk.selection
        if not chosen:
            return [_HINT, []]
        table = _shown(desk).table
        factors = desk.factors()
        energy = sum(float(table.energy[unit]) for unit in chosen)
        rows = [
            [
                table.adapters[table.adapter[unit]],
                table.places[table.module[unit]].name,
                int(table.rank[unit]),
                f"{table.energy[unit]:.2%}",
                factors[unit],
            ]
            for unit in chosen[:_LISTED]
        ]
        return [f"<b>{len(chosen)} units</b> selected, {energy:.1%} of energy", rows]


def clusters_of(desk: Desk, units: Units, factors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The LEGO cluster of every unit on the map, -1 for muted ones, with the recipe's weights and k."""
    recipe, table = desk.recipe, units.table
    knobs = recipe.chosen.check(recipe.knobs) if recipe.method == "lego" else {}
    k = int(knobs.get("k", 0)) or max(adapter.rank for adapter in desk.adapters)
    names = [spot.name for spot in table.places]
    weights = np.array(
        [[s.weight_for(n, w) for n in names] for s, w in zip(recipe.sources, recipe.weights, strict=True)]
    )
    own = torch.from_numpy(weights[table.adapter, table.module] * factors)
    labels = cluster_units(units.grams, len(table), k, weights=own, seed=recipe.seed).numpy()
    return np.where(own.numpy() == 0, -1, labels)


def _shown(desk: Desk) -> Units:
    units = desk.units_at_hand()
    if units is None:
        raise LoomError("The map is still being drawn", next="wait until its units are there")
    return units


def _groups(units: Units, labels: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One group for each cluster of each module: clusters never cross modules."""
    most = int(labels.max(initial=0)) + 1
    groups = np.where(labels >= 0, units.table.module.astype(np.int64) * most + labels, -1)
    return np.asarray(groups[rows])


def _chosen(desk: Desk) -> Sequence[int]:
    if not desk.selection:
        raise LoomError("No units are selected", next="draw a lasso on the map, or click a unit")
    return desk.selection


def _counted(units: Units) -> str:
    count = len(units.table)
    shown = len(drawn(units.table.energy))
    most = f", the {shown:,} of most energy shown" if shown < count else ""
    return f"UMAP of {count:,} units{most}. Distance on a map is not similarity: hover for true cosines."
