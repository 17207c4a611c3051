"""Merge methods: one pure function in one file each, whose signature is the only definition of its knobs.

Sliders, command-line flags, the recipe's schema, the docs table and the contract tests are all read from here.
Listing the methods imports no torch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin

from studio.core.errors import BadRecipe

if TYPE_CHECKING:
    from torch import Tensor

    from studio.core.linalg import Pair


class Draw(NamedTuple):
    """For methods that draw random numbers: the recipe's seed, and the module names of the leading dimension."""

    seed: int
    modules: tuple[str, ...]


Value = bool | int | float | str
Space = Literal["factors", "delta"]


class Merged(NamedTuple):
    """What a method gives back: the pair, and the share of what it wanted that fits the rank, (...,); None is all."""

    pair: Pair
    kept: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a numeric knob, for the slider and the check; `auto` means "let the method choose"."""

    low: float
    high: float
    step: float
    auto: float | None = None


@dataclass(frozen=True, slots=True)
class Help:
    """What a knob does, in a sentence a newcomer understands; `advanced` ones are folded away on the page."""

    text: str
    title: str = ""
    advanced: bool = False


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting of a method, as its signature declares it."""

    name: str
    title: str
    kind: Literal["bool", "int", "float", "choice"]
    default: Value
    help: str
    range: Range | None = None
    choices: tuple[str, ...] = ()
    advanced: bool = False

    def check(self, value: Any) -> Value:
        """The value as this knob's own type, or `BadRecipe` that names the bounds."""
        if self.kind == "choice":
            if value in self.choices:
                return str(value)
            raise BadRecipe(f"{self.name} cannot be {value!r}", f"it is one of {', '.join(self.choices)}")
        if self.kind == "bool":
            if isinstance(value, bool):
                return value
            raise BadRecipe(f"{self.name} cannot be {value!r}", "it is true or false")
        number = self._number(value)
        if self.range and not self.range.low <= number <= self.range.high and number != self.range.auto:
            raise BadRecipe(
                f"{self.name} cannot be {value}", f"it lies between {self.range.low:g} and {self.range.high:g}"
            )
        return number

    def parse(self, text: str) -> Value:
        """A value given as text on the command line."""
        if self.kind == "bool" and text.lower() in {"true", "yes", "on", "1", "false", "no", "off", "0"}:
            return text.lower() in {"true", "yes", "on", "1"}
        return self.check(text)

    def _number(self, value: Any) -> int | float:
        try:
            if isinstance(value, bool):
                raise ValueError
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number) or (self.kind == "int" and number != int(number)):
            raise BadRecipe(
                f"{self.name} cannot be {value!r}", f"it is {'a whole' if self.kind == 'int' else 'a'} number"
            )
        return int(number) if self.kind == "int" else number


@dataclass(frozen=True, slots=True)
class Laws:
    """What a method promises; the contract tests hold it to each.

    `identity`: one source at weight 1 comes back equal. `order`: the order of sources does not matter. `exact`: the
    result is the weighted sum itself. `gauge`: (B R^-1)(R A) gives the result of B A. `homogeneous`: weights times c,
    result times c.
    """

    identity: bool = True
    order: bool = True
    exact: bool = False
    gauge: bool = True
    homogeneous: bool = True


@dataclass(frozen=True, slots=True)
class Method:
    """A registered merge method.

    `run(pairs, weights, **knobs) -> Merged` merges one module or a batch of equal shape: `pairs` are the sources
    that adapt it, scaling inside; `weights` (..., N), none zero. A method that `draws` also takes `draw`.
    `space` tells its cost: "factors" never builds a dense delta, "delta" builds one module at a time. A method that is
    not `signed` takes no negative weights: they are refused before it runs, and its sliders begin at 0.
    """

    id: str
    title: str
    summary: str
    source: str
    run: Callable[..., Merged]
    knobs: Mapping[str, Knob]
    laws: Laws
    space: Space = "factors"
    default_weight: Literal["mean", "one"] = "mean"
    max_sources: int | None = None
    tier: Literal["first", "second", "experimental", "legacy"] = "second"
    draws: bool = False
    signed: bool = True

    def weight(self, count: int) -> float:
        """The weight each of `count` sources starts with."""
        return 1.0 / max(count, 1) if self.default_weight == "mean" else 1.0

    def check(self, knobs: Mapping[str, Any]) -> dict[str, Value]:
        """All knobs with the given values over the defaults; `BadRecipe` for an unknown one or one out of bounds."""
        unknown = sorted(set(knobs) - set(self.knobs))
        if unknown:
            known = ", ".join(self.knobs) or "none"
            raise BadRecipe(f"{self.id} has no knob {unknown[0]!r}", f"its knobs: {known}")
        return {name: knob.check(knobs.get(name, knob.default)) for name, knob in self.knobs.items()}


def method(*, title: str, source: str, laws: Laws, **about: Any) -> Callable[[Callable[..., Merged]], Method]:
    """Declare the decorated function a merge method: its name is the id, its docstring begins with the summary."""
    return partial(_declare, title=title, source=source, laws=laws, **about)


def _declare(run: Callable[..., Merged], **about: Any) -> Method:
    summary = (inspect.getdoc(run) or "").partition("\n")[0]
    draws = "draw" in inspect.signature(run).parameters
    return Method(id=run.__name__, summary=summary, run=run, knobs=_knobs_of(run), draws=draws, **about)


def _knobs_of(run: Callable[..., Any]) -> dict[str, Knob]:
    parameters = inspect.signature(run).parameters.values()
    return {p.name: _knob(run, p) for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "draw"}


def _knob(run: Callable[..., Any], parameter: inspect.Parameter) -> Knob:
    # Only the knobs' annotations are evaluated: those of the tensors would import torch.
    hint = (
        eval(parameter.annotation, run.__globals__) if isinstance(parameter.annotation, str) else parameter.annotation
    )
    if get_origin(hint) is not Annotated:
        raise TypeError(f"knob {parameter.name} of {run.__name__} needs Annotated[type, Help(...)]")
    type_, *notes = get_args(hint)
    help_ = next(note for note in notes if isinstance(note, Help))
    range_ = next((note for note in notes if isinstance(note, Range)), None)
    choices = tuple(get_args(type_)) if get_origin(type_) is Literal else ()
    kind: Any = "choice" if choices else type_.__name__
    title = help_.title or parameter.name.replace("_", " ").capitalize()
    return Knob(parameter.name, title, kind, parameter.default, help_.text, range_, choices, help_.advanced)
