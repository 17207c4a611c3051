"""The bar above the rooms: presets, what a preset says, undo and redo."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from studio.recipes.presets import load_preset, preset_choices
from studio.session.workspace import Workspace
from studio.ui.shell.panel import EDIT, Shared, shows_errors


class Bar:
    """Puts presets in the workspace, and steps back and forward through its history."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.preset = gr.Dropdown(
            preset_choices(), value=None, label="Preset", elem_id="preset", scale=2, min_width=180
        )
        self.note = gr.HTML(elem_id="note")
        self.undo = gr.Button("↶ Undo", size="sm", min_width=70, scale=0, elem_id="undo", interactive=False)
        self.redo = gr.Button("↷ Redo", size="sm", min_width=70, scale=0, elem_id="redo", interactive=False)

    def components(self) -> list[Any]:
        """Controls that the recipe sets."""
        return [self.preset, self.note]

    def controls(self, workspace: Workspace) -> dict[Any, Any]:
        """The preset that the recipe is, and its note."""
        preset = dict(preset_choices()).get(workspace.recipe.name)
        return {self.preset: preset, self.note: escape(_note(workspace, preset))}

    def buttons(self, workspace: Workspace) -> dict[Any, Any]:
        """Which of the two buttons does something."""
        history = workspace.history
        return {
            self.undo: gr.update(interactive=history.at > 0),
            self.redo: gr.update(interactive=history.at + 1 < len(history.steps)),
        }

    def wire(self) -> None:
        """Connect the listeners."""
        token, every = self.shared.token, self.shared.controls()
        self.preset.input(self.on_preset, [token, self.preset], every, **EDIT)
        self.undo.click(self.on_undo, [token], every, **EDIT)
        self.redo.click(self.on_redo, [token], every, **EDIT)

    @shows_errors
    def on_preset(self, token: str, id: str | None) -> dict[Any, Any]:
        """Put a preset in the workspace."""
        workspace = self.shared.workspace(token)
        if not id or load_preset(id).name == workspace.recipe.name:
            return {}
        recipe = load_preset(id)
        workspace.load(recipe, f"preset {recipe.name}")
        return self.shared.refresh(workspace)

    @shows_errors
    def on_undo(self, token: str) -> dict[Any, Any]:
        """One step back."""
        return self._moved(token, -1)

    @shows_errors
    def on_redo(self, token: str) -> dict[Any, Any]:
        """One step forward."""
        return self._moved(token, 1)

    def _moved(self, token: str, by: int) -> dict[Any, Any]:
        workspace = self.shared.workspace(token)
        workspace.move(by)
        return self.shared.refresh(workspace)


def _note(workspace: Workspace, preset: str | None) -> str:
    """The recipe's note; what a preset says of its adapters says nothing of others."""
    places = [source.path for source in workspace.recipe.sources]
    if preset is not None and places != [source.path for source in load_preset(preset).sources]:
        return "Other adapters than the preset's are on the desk."
    return workspace.recipe.note
