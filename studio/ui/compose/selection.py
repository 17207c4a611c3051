"""What is picked on the map by lasso, click or keyboard, and what can be done with it: mute, keep only, scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from studio.core.errors import LoomError
from studio.session.workspace import Workspace
from studio.ui.compose.map import picked_ids
from studio.ui.compose.units import UnitsPanel
from studio.ui.shell import markup
from studio.ui.shell.panel import EDIT, Shared, shows_errors
from studio.units import Units, drawn

_LISTED = 200  # selected units in the table
_HINT = "Lasso or click units to act on them."
_NOTHING = "Nothing is selected. Draw around units on the map, or click one: each is listed here."


class SelectionPanel:
    """Acts on the units that were picked: edits them in the recipe, and lists them."""

    def __init__(self, shared: Shared, units: UnitsPanel) -> None:
        self.shared, self.units = shared, units
        with gr.Row(elem_id="selection-bar"):
            self.selected = gr.HTML(_HINT, elem_id="selected", min_width=150)
            self.mute = gr.Button("Mute", size="sm", min_width=56, scale=0, elem_id="mute")
            self.keep = gr.Button("Keep only", size="sm", min_width=78, scale=0, elem_id="keep")
            self.rescale = gr.Button("Scale by", size="sm", min_width=70, scale=0, elem_id="rescale")
            self.factor = gr.Number(
                0.5,
                label="Factor for Scale",
                show_label=False,
                container=False,
                minimum=-10,
                maximum=10,
                step=0.1,
                min_width=64,
                scale=0,
                elem_id="factor",
            )
            self.restore = gr.Button("Clear edits", size="sm", min_width=84, scale=0, elem_id="restore")

    def build_tab(self) -> None:
        """The tab that lists the selection."""
        with gr.Tab("Selection", elem_classes="pane"):
            self.listed = gr.HTML(markup.message(_NOTHING), elem_id="listed")

    def components(self) -> list[Any]:
        """The recipe sets no control of the selection: every edit ends it."""
        return []

    def controls(self, workspace: Workspace) -> dict[Any, Any]:
        """Nothing."""
        return {}

    def wire(self) -> None:
        """Connect the listeners."""
        token, version = self.shared.token, self.shared.version
        said = [self.selected, self.listed]
        for counter in (version, self.shared.picture):
            counter.change(self.on_selection, [token], said, **EDIT)
        chosen = [self.units.map, *said]
        self.units.map.pick(self.on_pick, [token], chosen, **EDIT)
        self.units.map.clear(self.on_clear, [token], chosen, **EDIT)
        done = [version, *chosen]
        self.mute.click(self.on_mute, [token], done, **EDIT)
        self.keep.click(self.on_keep, [token], done, **EDIT)
        self.rescale.click(self.on_rescale, [token, self.factor], done, **EDIT)
        self.restore.click(self.on_restore, [token], done, **EDIT)

    @shows_errors
    def on_pick(self, token: str, event: gr.EventData) -> list[Any]:
        """Units were picked on the map."""
        workspace = self.shared.workspace(token)
        rows = drawn(_shown(workspace).table.energy)
        picked = picked_ids(event, len(rows))
        workspace.select([int(rows[i]) for i in picked])
        return [gr.update(picked=list(picked)), *self.listing(workspace)]

    @shows_errors
    def on_clear(self, token: str) -> list[Any]:
        """The selection was cleared."""
        workspace = self.shared.workspace(token)
        workspace.select(())
        return [gr.update(picked=[]), *self.listing(workspace)]

    @shows_errors
    def on_selection(self, token: str) -> list[Any]:
        """The recipe or the picture changed, which ends the selection: say so."""
        return self.listing(self.shared.workspace(token))

    @shows_errors
    def on_mute(self, token: str) -> list[Any]:
        """Mute what is selected."""
        workspace = self.shared.workspace(token)
        chosen = _chosen(workspace)
        workspace.scale_units(chosen, 0.0, f"mute {len(chosen)} units")
        return self.edited(workspace)

    @shows_errors
    def on_keep(self, token: str) -> list[Any]:
        """Mute everything on the map that is not selected."""
        workspace = self.shared.workspace(token)
        workspace.keep_only(_chosen(workspace))
        return self.edited(workspace)

    @shows_errors
    def on_rescale(self, token: str, factor: float | None) -> list[Any]:
        """Scale what is selected."""
        workspace = self.shared.workspace(token)
        if factor is None:
            raise LoomError("No factor was given", next="write a number beside Scale")
        chosen = _chosen(workspace)
        workspace.scale_units(chosen, float(factor), f"scale {len(chosen)} units")
        return self.edited(workspace)

    @shows_errors
    def on_restore(self, token: str) -> list[Any]:
        """Undo every unit edit."""
        workspace = self.shared.workspace(token)
        workspace.clear_units()
        return self.edited(workspace)

    def edited(self, workspace: Workspace) -> list[Any]:
        """After an edit of units: the next version, the map, and an empty selection."""
        return [workspace.version, gr.update(picked=[], **self.units.moving(workspace)), *self.listing(workspace)]

    def listing(self, workspace: Workspace) -> list[Any]:
        """The selection in words and as a table."""
        chosen = list(workspace.selection)
        if not chosen:
            return [_HINT, markup.message(_NOTHING)]
        table, factors = _shown(workspace).table, workspace.factors()
        energy = table.norm.astype(float) ** 2
        share = energy[chosen].sum() / energy.sum() if energy.any() else 0.0
        rows = [
            markup.UnitRow(
                table.adapters[table.adapter[unit]],
                table.places[table.module[unit]].name,
                int(table.rank[unit]) + 1,
                float(table.energy[unit]),
                float(factors[unit]),
            )
            for unit in sorted(chosen, key=lambda unit: -energy[unit])[:_LISTED]
        ]
        return [f"<b>{len(chosen):,} units</b>, {share:.1%} of all energy", markup.units(rows, len(chosen))]


def _shown(workspace: Workspace) -> Units:
    units = workspace.units_at_hand()
    if units is None:
        raise LoomError("The map is still being drawn", next="wait until its units are there")
    return units


def _chosen(workspace: Workspace) -> Sequence[int]:
    if not workspace.selection:
        raise LoomError("No units are selected", next="draw a lasso on the map, or click a unit")
    return workspace.selection
