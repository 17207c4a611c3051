"""The recipe: the only description of a composition. The page edits one, presets are some, exports carry theirs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from studio.core.errors import BadRecipe
from studio.core.files import read_at_most, write_atomic
from studio.merging import method_by_id
from studio.merging.registry import Method, Value

FORMAT = 1
MAX_BYTES = 4 << 20
_SCHEME = re.compile(r"[a-z]{2,}:")  # one letter is a drive of Windows
_DOCS = "see docs/reference/recipes.md"
Weight = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Form = Literal["raw", "canonical"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class UnitEdits(_Frozen):
    """Units of one source muted (0) or scaled, by module and rank index, in raw or canonical form.

    Canonical indices count singular directions from the strongest; raw ones count rows of A.
    """

    form: Form = "canonical"
    scale: Mapping[str, Mapping[int, Weight]] = {}


class Source(_Frozen):
    """One adapter of a composition: where it is, what it must be, and how much of it is wanted.

    `weight` None is the method's own default. `modules` gives other weights by module name or pattern (`*.mlp.*`);
    the last match wins. `sha256` pins the weights file: another content is refused.
    """

    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    name: str | None = None
    sha256: str | None = None
    weight: Weight | None = None
    modules: Mapping[str, Weight] = {}
    units: UnitEdits = UnitEdits()

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("a source has either a path or a hub id")
        return self

    @property
    def title(self) -> str:
        """What to call it: its own name, or the end of its path."""
        return self.name or Path(self.hub or self.path or "").stem

    def own_weight(self, module: str) -> float | None:
        """The weight that `modules` gives this module; None where it follows the source's."""
        found = [
            weight for pattern, weight in self.modules.items() if module == pattern or fnmatchcase(module, pattern)
        ]
        return found[-1] if found else None

    def weight_for(self, module: str, default: float) -> float:
        """The weight of this source in one module."""
        own = self.own_weight(module)
        if own is not None:
            return own
        return default if self.weight is None else self.weight


class View(_Frozen):
    """How the page shows the composition; it does not change the result."""

    scope: str = "all"
    colour: Literal["source", "layer", "module", "cluster"] = "source"
    form: Form = "canonical"
    prompt: str = ""
    tokens: Annotated[int, Field(ge=1, le=512)] = 60
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    text: str = ""


class Recipe(_Frozen):
    """A composition: sources, method, knobs, seed. `compose(recipe)` is pure: the same recipe gives the same bytes.

    `extras` names the one source whose heads, biases and other full tensors are carried; None drops them all.
    `other_bases` allows sources of different base models. `scale` multiplies the result (lambda).
    """

    format: Literal[1] = 1
    name: str = ""
    note: str = ""
    sources: tuple[Source, ...] = ()
    method: str = "cat"
    knobs: Mapping[str, Value] = {}
    scale: Weight = 1.0
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    extras: str | None = None
    other_bases: bool = False
    base: str | None = None
    view: View = View()

    @model_validator(mode="after")
    def _knobs_are_the_methods(self) -> Self:
        try:
            method_by_id(self.method).check(self.knobs)
        except BadRecipe as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def chosen(self) -> Method:
        """The merge method."""
        return method_by_id(self.method)

    @property
    def weights(self) -> tuple[float, ...]:
        """The global weight of each source, defaults filled in."""
        default = self.chosen.weight(len(self.sources))
        return tuple(default if source.weight is None else source.weight for source in self.sources)

    def changed(self, **fields: Any) -> Recipe:
        """The recipe with some fields replaced, checked again."""
        return parse({**self.model_dump(), **fields})

    def digest(self) -> str:
        """SHA-256 of everything that decides the result; name, note and view do not.

        Where a source lies decides nothing once its content is pinned, so a recipe may travel and keep its digest.
        """
        content = self.model_dump(mode="json", exclude={"name", "note", "view"})
        for source in content["sources"]:
            if source["sha256"]:
                source |= {"path": None, "hub": None, "revision": None}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_yaml(self) -> str:
        """The recipe for people: defaults left out, fields in order."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump({"format": self.format, **content}, sort_keys=False, allow_unicode=True, width=120)

    def save(self, path: Path) -> None:
        """Write the YAML, whole or not at all."""
        write_atomic(path, self.to_yaml().encode())


def parse(content: Any) -> Recipe:
    """A recipe from loaded YAML or JSON. Raises `BadRecipe` that names the field."""
    if not isinstance(content, Mapping):
        raise BadRecipe("This is not a recipe", f"it holds a {type(content).__name__}, not fields", _DOCS)
    if content.get("format", FORMAT) != FORMAT:
        raise BadRecipe(
            f"The recipe has format {content['format']!r}",
            f"this studio reads format {FORMAT}",
            "use a matching version",
        )
    try:
        return Recipe.model_validate(content)
    except (ValidationError, RecursionError) as error:
        raise BadRecipe("The recipe cannot be used", _first(error), _DOCS) from error


def read_yaml(text: str) -> Recipe:
    """A recipe from YAML text; plain data only, no tags, no aliases that blow up."""
    if len(text) > MAX_BYTES:
        raise BadRecipe(f"The recipe is {len(text)} characters long", f"the limit is {MAX_BYTES}")
    if "&" in text and any(isinstance(event, yaml.AliasEvent) for event in _events(text)):
        raise BadRecipe("The recipe uses YAML aliases", next="write the fields out")
    try:
        return parse(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadRecipe("The recipe is not YAML", " ".join(str(error).split())[:300], _DOCS) from error


def load(path: Path) -> Recipe:
    """Read a recipe file; relative source paths in it count from its own folder."""
    try:
        content = read_at_most(path, MAX_BYTES)
        text = None if content is None else content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadRecipe(f"{path.name} cannot be read", str(error)) from error
    if text is None:
        raise BadRecipe(f"{path.name} is longer than a recipe", f"the limit is {MAX_BYTES} bytes")
    recipe = read_yaml(text)
    return recipe.model_copy(update={"sources": tuple(_beside(path, source) for source in recipe.sources)})


def is_recipe(path: Path) -> bool:
    """Whether the studio wrote this recipe: one with a person's own words in it is read, and never written over."""
    try:
        text = (read_at_most(path, MAX_BYTES) or b"").decode()
        return read_yaml(text).to_yaml() == text
    except (BadRecipe, UnicodeDecodeError):
        return False


def _beside(recipe: Path, source: Source) -> Source:
    """The source with a relative path counted from the recipe's folder; `loom:` and `upload:` are no paths."""
    if source.path is None or _SCHEME.match(source.path):
        return source
    return source.model_copy(update={"path": str(recipe.parent / Path(source.path).expanduser())})


def placed(recipe: Recipe, folder: Path, *, for_others: bool) -> Recipe:
    """The recipe as a file in `folder` must say it: paths counted from there, the inverse of what `load` does.

    A way that leaves the person's own folders would show how their machine is laid out: it is written in full where
    the recipe stays here, and as its bare last name in one `for_others`, who go by the SHA-256 anyway.
    """
    sources = tuple(_seen_from(folder, source, for_others) for source in recipe.sources)
    base = Path(recipe.base).name if recipe.base and for_others and _is_absolute(recipe.base) else recipe.base
    return recipe.model_copy(update={"sources": sources, "base": base})


def _seen_from(folder: Path, source: Source, for_others: bool) -> Source:
    if source.path is None or _SCHEME.match(source.path):
        return source
    there = Path(source.path).expanduser().resolve()
    path = _way(folder.expanduser().resolve(), there) or (Path(there.name) if for_others else there)
    return source.model_copy(update={"path": path.as_posix()})


def _way(here: Path, there: Path) -> Path | None:
    """The relative path, unless it climbs to the root, above the person's home, or to the folder of temporary files.

    What two temporary folders have in common is no place: a download leaves it, and the way would lead anywhere.
    """
    if here.anchor != there.anchor:
        return None
    shared = Path(os.path.commonpath([here, there]))
    nowhere = {Path(shared.anchor), Path(tempfile.gettempdir()).resolve(), *Path.home().resolve().parents}
    return None if shared in nowhere else Path(os.path.relpath(there, here))


def _is_absolute(path: str) -> bool:
    return Path(path).expanduser().is_absolute() or PureWindowsPath(path).is_absolute()


def _events(text: str) -> list[yaml.Event]:
    try:
        return list(yaml.parse(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError):
        return []


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "it is nested too deeply"
    found = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in found["loc"])
    return (
        f"{place}: {found['msg'].removeprefix('Value error, ')}"
        if place
        else found["msg"].removeprefix("Value error, ")
    )
