"""Weights by kind of module or by layer: a table whose cells are weights of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import gradio as gr

from studio.recipes.recipe import Source
from studio.session.workspace import Workspace
from studio.ui.shell.panel import EDIT, Shared, shows_errors
from studio.units.pool import layer_of, module_type_of, natural

_MIXED = "mixed"


class ByModulePanel:
    """Edits the weights that groups of modules have of their own, whatever the sliders say."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        with gr.Tab("By module", elem_classes="pane"):
            gr.Markdown("A number gives these modules a weight of their own; an empty cell follows the slider.")
            with gr.Row():
                self.grouping = gr.Radio(
                    [("Module type", "type"), ("Layer", "layer")],
                    value="type",
                    label="Group modules by",
                    show_label=False,
                    elem_id="grouping",
                )
                self.reset = gr.Button("Clear all", size="sm", scale=0, min_width=80, elem_id="clear-by-module")
            self.table = gr.Dataframe(
                interactive=True, elem_id="by-module", max_height=320, label="Weights by module", show_label=False
            )

    def components(self) -> list[Any]:
        """Grouping and table."""
        return [self.grouping, self.table]

    def controls(self, workspace: Workspace) -> dict[Any, Any]:
        """The table as the recipe has it."""
        return {self.grouping: "type", self.table: _table(workspace, "type")}

    def wire(self) -> None:
        """Connect the listeners."""
        token, version = self.shared.token, self.shared.version
        self.grouping.input(self.on_grouping, [token, self.grouping], self.table, **EDIT)
        self.table.input(self.on_table, [token, self.grouping, self.table], version, **EDIT)
        self.reset.click(self.on_reset, [token, self.grouping], [version, self.table], **EDIT)

    @shows_errors
    def on_grouping(self, token: str, grouping: str) -> Any:
        """Show the table by type or by layer."""
        return _table(self.shared.workspace(token), grouping)

    @shows_errors
    def on_table(self, token: str, grouping: str, table: Any) -> int:
        """Cells of the table changed: weights of their own for the modules of that row."""
        workspace = self.shared.workspace(token)
        groups = _groups(workspace, grouping)
        for index, source in enumerate(workspace.recipe.sources):
            column = [_cell(cell) for cell in table.iloc[:, index + 1]] if index + 1 < table.shape[1] else []
            own = _own_weights(column, groups, source, workspace.module_names())
            if own != dict(source.modules):
                workspace.edit_source(index, "weights by module", modules=own)
        return workspace.version

    @shows_errors
    def on_reset(self, token: str, grouping: str) -> tuple[int, Any]:
        """Clear all weights by module."""
        workspace = self.shared.workspace(token)
        workspace.edit(
            "clear weights by module", sources=[{**s, "modules": {}} for s in workspace.recipe.model_dump()["sources"]]
        )
        return workspace.version, _table(workspace, grouping)


def _groups(workspace: Workspace, grouping: str) -> dict[str, list[str]]:
    """The modules in the workspace by type or by layer."""
    named = module_type_of if grouping == "type" else layer_of
    groups: dict[str, list[str]] = {}
    for name in workspace.module_names():
        groups.setdefault(named(name), []).append(name)
    return {name: groups[name] for name in sorted(groups, key=natural)}


def _table(workspace: Workspace, grouping: str) -> Any:
    """Rows of (group, each source's own weight there): empty where it follows the slider, a word where it is mixed."""
    names = [adapter.name for adapter in workspace.adapters]
    rows = []
    for group, modules in _groups(workspace, grouping).items():
        found = [{source.own_weight(module) for module in modules} for source in workspace.recipe.sources]
        rows.append([group, *(_shown(own.pop()) if len(own) == 1 else _MIXED for own in found)])
    return gr.update(value={"headers": ["module" if grouping == "type" else "layer", *names], "data": rows})


def _shown(weight: float | None) -> str:
    return "" if weight is None else f"{weight:g}"


def _cell(cell: Any) -> float | str | None:
    """A number, `mixed`, or None for a cell that says nothing."""
    if isinstance(cell, str) and cell.strip() == _MIXED:
        return _MIXED
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return None
    return None if number != number else number


def _own_weights(
    column: Sequence[float | str | None], groups: Mapping[str, Sequence[str]], source: Source, names: Sequence[str]
) -> dict[str, float]:
    """The per-module weights that give each group the number in its cell; a mixed group keeps what it had."""
    own: dict[str, float] = {}
    for (group, members), cell in zip(groups.items(), column, strict=False):
        if isinstance(cell, str):
            own |= {name: weight for name in members if (weight := source.own_weight(name)) is not None}
        elif cell is not None:
            pattern = f"*.{group}"
            whole = {name for name in names if fnmatchcase(name, pattern)} == set(members)
            own |= {pattern: cell} if whole else dict.fromkeys(members, cell)
    return own
