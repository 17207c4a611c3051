"""Routing by modality: a rule on what an input holds picks one adapter or none.

Nothing here is trained. Rules are data, in order: the first that fits decides. Phi-4-multimodal's table is

    text -> none      image -> vision      audio -> speech      image + audio -> vision
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from studio.core.errors import BadRecipe, LoomError

Mode = Literal["text", "image", "audio", "image+audio"]
MODES: Final[tuple[Mode, ...]] = ("text", "image", "audio", "image+audio")
_TITLES: Final = {"has_text": "text", "has_image": "image", "has_audio": "audio"}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What one request holds. Text may be with any of them and decides nothing in the reference table."""

    has_text: bool = True
    has_image: bool = False
    has_audio: bool = False

    @property
    def mode(self) -> Mode:
        """The input mode: LANGUAGE, VISION, SPEECH or VISION_SPEECH in the reference."""
        if self.has_image:
            return "image+audio" if self.has_audio else "image"
        return "audio" if self.has_audio else "text"

    @classmethod
    def of(cls, mode: Mode) -> Inputs:
        """Text and what the mode adds to it."""
        return cls(True, mode.startswith("image"), mode.endswith("audio"))


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: the adapter, or None for the base alone, where the inputs are as said; what is None is not asked."""

    adapter: str | None
    has_text: bool | None = None
    has_image: bool | None = None
    has_audio: bool | None = None

    def fits(self, inputs: Inputs) -> bool:
        """Whether every input that the rule asks about is as it says."""
        return all(getattr(self, name) in (None, getattr(inputs, name)) for name in _TITLES)

    @property
    def said(self) -> str:
        """In words: `image, no audio`."""
        asked = {title: getattr(self, name) for name, title in _TITLES.items()}
        return ", ".join(title if wanted else f"no {title}" for title, wanted in asked.items() if wanted is not None)


REFERENCE: Final = (Rule("vision", has_image=True), Rule("speech", has_audio=True), Rule(None))


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided for one input: by which rule (counted from 0), or because it was forced."""

    inputs: Inputs
    adapter: str | None
    rule: int | None

    @property
    def said(self) -> str:
        """In words, for a log."""
        why = "forced" if self.rule is None else f"rule {self.rule + 1}"
        return f"{self.inputs.mode} -> {self.adapter or 'base alone'} ({why})"


@dataclass(frozen=True, slots=True)
class Forced:
    """An override: this adapter, or None for the base alone, whatever the input is."""

    adapter: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a batch that go through the model together: they have one mode and one adapter."""

    mode: Mode
    adapter: str | None
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModalityRouter:
    """Picks the adapter of an input by the first rule that fits. Raises `BadRecipe` where some input has no rule."""

    rules: tuple[Rule, ...] = REFERENCE
    forced: Forced | None = None

    def __post_init__(self) -> None:
        for mode in MODES:
            if not any(rule.fits(Inputs.of(mode)) for rule in self.rules):
                raise BadRecipe(f"No rule says what to do with {mode}", next="end the table with a rule for everything")

    def decide(self, inputs: Inputs) -> Decision:
        """The decision for one input."""
        if self.forced is not None:
            return Decision(inputs, self.forced.adapter, None)
        index = next((i for i, rule in enumerate(self.rules) if rule.fits(inputs)), None)
        if index is None:
            raise LoomError("No rule fits an input without text", next="add a rule, or give it text")
        return Decision(inputs, self.rules[index].adapter, index)

    def split(self, batch: Sequence[Inputs]) -> tuple[list[Part], list[Decision]]:
        """A batch by mode and adapter, in the order in which they first come, and the decision for every row."""
        decisions = [self.decide(inputs) for inputs in batch]
        rows: dict[tuple[Mode, str | None], list[int]] = {}
        for row, decision in enumerate(decisions):
            rows.setdefault((decision.inputs.mode, decision.adapter), []).append(row)
        return [Part(mode, adapter, tuple(found)) for (mode, adapter), found in rows.items()], decisions


def rules_from(table: object) -> tuple[Rule, ...]:
    """Rules from plain data, a list of `{"adapter": "vision", "has_image": true}`; else raises `BadRecipe`."""
    if not isinstance(table, list) or not 1 <= len(table) <= 64:
        raise BadRecipe("A table of rules is a list of 1 to 64 objects", f"this is a {type(table).__name__}")
    return tuple(_rule(row) for row in table)


def _rule(row: object) -> Rule:
    known = [field.name for field in fields(Rule)]
    if not isinstance(row, dict) or "adapter" not in row or not set(row) <= set(known):
        raise BadRecipe(f"A rule is {str(row)[:80]}", f"it is an object with adapter and any of {', '.join(known[1:])}")
    if not isinstance(row["adapter"], str | None) or not all(isinstance(row.get(k), bool | None) for k in _TITLES):
        raise BadRecipe(f"A rule is {str(row)[:80]}", "adapter is a name or null, the others are true, false or null")
    return Rule(**row)


@contextmanager
def active(model: Any, adapter: str | None) -> Iterator[None]:
    """Run a PEFT model under one of its adapters, or under none; afterwards it is as it was.

    Without an adapter every layer is the base's own, so that its results equal the base's bit for bit. This is a state
    of the model: where threads share one, hold a lock. Raises `LoomError` for an adapter that the model does not have.
    """
    if adapter is None:
        with model.disable_adapter():
            yield
        return
    if adapter not in model.peft_config:
        raise LoomError(f"The model has no adapter named {adapter}", f"it has {', '.join(model.peft_config)}")
    before = model.active_adapter
    model.set_adapter(adapter, inference_mode=True)
    try:
        yield
    finally:
        model.set_adapter(before, inference_mode=True)
