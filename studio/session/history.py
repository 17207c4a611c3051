"""The steps of a recipe, to go back and forth in. Frozen: an edit gives another history."""

from __future__ import annotations

from dataclasses import dataclass, replace

from studio.recipes.recipe import Recipe

_KEPT_STEPS = 200


@dataclass(frozen=True, slots=True)
class Step:
    """One state in the history, and what led to it in a few words."""

    label: str
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class History:
    """The steps, oldest first, and which of them is in the workspace. Edits of one control in a row are one step."""

    steps: tuple[Step, ...] = (Step("no adapters", Recipe()),)
    at: int = 0

    @property
    def now(self) -> Recipe:
        """The recipe in the workspace."""
        return self.steps[self.at].recipe

    def then(self, label: str, recipe: Recipe) -> History:
        """The history after an edit; what was undone is forgotten."""
        past = self.steps[: self.at + 1]
        if len(past) > 1 and past[-1].label == label:
            past = past[:-1]
        past = (*past, Step(label, recipe))[-_KEPT_STEPS:]
        return History(past, len(past) - 1)

    def amended(self, recipe: Recipe) -> History:
        """The history with another recipe in the same step, one that is only looked at in another way."""
        steps = list(self.steps)
        steps[self.at] = replace(steps[self.at], recipe=recipe)
        return replace(self, steps=tuple(steps))

    def moved(self, by: int) -> History:
        """Undo (-1) or redo (+1), as far as there is anything."""
        return replace(self, at=min(max(self.at + by, 0), len(self.steps) - 1))

    def begun_here(self) -> History:
        """The history that begins with what is in the workspace now."""
        return History((self.steps[self.at],))
