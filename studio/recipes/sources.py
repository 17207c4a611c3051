"""From a recipe's sources to opened adapters, each checked against its pinned content."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PureWindowsPath

from studio.core.adapter import Adapter
from studio.core.data import assets
from studio.core.errors import BadRecipe, CannotMerge, MissingFile
from studio.core.files import local_path
from studio.formats import Opened, open_once
from studio.merging.stacks import Stack, stacks
from studio.recipes.recipe import Recipe, Source

BUDGET = 256 << 20  # bytes of factors, and of results, that are kept in memory
BATCH = 64 << 20  # working memory of a batch that is not kept: small enough for the allocator to use the pages again
_COMMIT = re.compile(r"[0-9a-f]{40}")
EMBEDDED = "loom:"  # a path that starts so is one of the studio's own adapters, wherever the studio is installed
UPLOAD = "upload:"  # one that starts so lies in the visitor's own workspace
_ASSETS = assets("text", "adapters")
_BASIS = assets("vision", "lorweb", "lorweb_model.safetensors")
_MEMBER = re.compile(r"loom:basis-([1-9][0-9]{0,3})")  # one adapter of the embedded LoRWeB basis


@dataclass(frozen=True, eq=False)
class Sources:
    """The opened adapters of a composition, and their stacked factors once somebody needed them.

    The page keeps one of these while a slider moves, so that a new weight costs algebra and no reading. The algebra is
    done on `device`, as torch names it (`cuda`): at once where all fits `budget` bytes, else in batches of about
    `batch`; results always come back.
    """

    adapters: tuple[Adapter, ...]
    budget: int = BUDGET
    batch: int = BATCH
    hashes: tuple[str | None, ...] = ()
    device: str = "cpu"

    @cached_property
    def small(self) -> bool:
        """Whether all factors, and what is computed of them once in float64, fit the budget, so that they are kept."""
        modules = [module for adapter in self.adapters for module in adapter.modules.values()]
        return sum((4 + 8 + 8) * module.rank * (module.d_in + module.d_out) for module in modules) <= self.budget

    @cached_property
    def _kept(self) -> tuple[Stack, ...]:
        return tuple(stacks(self.adapters, budget=self.budget, device=self.device))

    def stacks(self, *, dense: bool) -> Iterable[Stack]:
        """The modules in batches; from memory where they fit."""
        if self.small and not dense:
            return self._kept
        return stacks(self.adapters, budget=min(self.budget, self.batch), dense=dense, device=self.device)


def source_fields(word: str) -> dict[str, str]:
    """Where a source is, from one word on a command line: a Hub id (owner/name), or a path.

    Raises `BadRecipe` for a path that no recipe can name.
    """
    try:
        word.encode()
    except UnicodeEncodeError:
        raise BadRecipe(f"{word!r} is not UTF-8", "a recipe could not name it", "rename the file") from None
    looks_so = word.count("/") == 1 and not word.startswith((".", "/", "~")) and not PureWindowsPath(word).drive
    is_hub_id = looks_so and not Path(word).exists()
    return {"hub": word} if is_hub_id else {"path": word}


def embedded_paths() -> dict[str, Path]:
    """The studio's own adapters by recipe path (`loom:math`)."""
    folders = sorted(_ASSETS.iterdir()) if _ASSETS.is_dir() else []
    return {f"{EMBEDDED}{folder.name}": folder for folder in folders if (folder / "adapter_config.json").is_file()}


def resolve(source: Source, *, uploads: Path | None = None, is_local: bool = True) -> Path:
    """Where a source's files are; a Hub id is fetched at its pinned revision.

    `uploads` is where a visitor's uploads are (`upload:NAME`). A studio that is not local opens no path of its
    machine.
    """
    if source.hub is not None:
        from studio.formats.containers.hub import fetch

        return fetch(source.hub, source.revision)
    path = str(source.path)
    name = Path(path).name  # a recipe file's folder may have been put before a scheme
    if (member := _MEMBER.fullmatch(name)) and _BASIS.is_file():
        return Path(f"{_BASIS}#{member[1]}")
    if name.startswith(EMBEDDED):
        found = embedded_paths().get(name)
        if found is None:
            raise BadRecipe(f"The studio has no adapter {name!r}", f"it has {', '.join(embedded_paths()) or 'none'}")
        return found
    if name.startswith(UPLOAD):
        return _uploaded(name.removeprefix(UPLOAD), uploads)
    if not is_local:
        raise BadRecipe(f"{name} is a path", "this studio opens no files of its own machine", "upload the adapter")
    return local_path(path)


def _uploaded(name: str, uploads: Path | None) -> Path:
    found = uploads / name if uploads is not None and name not in {"", ".", ".."} else None
    if found is None or not found.exists():
        raise MissingFile(f"{name} was uploaded to a page that is closed", next="upload it again, then open the recipe")
    return found


def open_source(source: Source, *, uploads: Path | None = None, is_local: bool = True) -> Opened:
    """The adapter of a source, opened, hashed and ready to be judged; the only reading of a source's files.

    Raises `CannotMerge` if the file is not the one that the recipe pins.
    """
    opened = open_once(resolve(source, uploads=uploads, is_local=is_local))
    if source.sha256 and opened.sha256 != source.sha256:
        raise CannotMerge(
            f"{source.title} is not the file the recipe was made with",
            f"its SHA-256 is {opened.sha256}, the recipe says {source.sha256}",
            "find the old file, or remove sha256 from the recipe to use this one",
        )
    return opened


def named(adapter: Adapter, source: Source) -> Adapter:
    """The adapter under the source's name, where it has one."""
    return adapter.renamed(source.name) if source.name else adapter


def pinned(source: Source, adapter: Adapter, digest: str | None) -> Source:
    """The source with its name, its content hash and, from a Hub, the commit it was fetched at."""
    found: dict[str, str | None] = {"name": adapter.name, "sha256": digest}
    if source.hub is not None and adapter.path is not None:
        # the Hub's cache names a repository's folder by its commit
        commit = next(filter(_COMMIT.fullmatch, (adapter.path.name, adapter.path.parent.name)), None)
        found |= {"revision": commit} if commit else {}
    return source.model_copy(update=found)


def open_sources(recipe: Recipe) -> Sources:
    """All adapters of a recipe, opened and told apart by name."""
    found = [open_source(source) for source in recipe.sources]
    adapters = [named(opened.adapter, source) for opened, source in zip(found, recipe.sources, strict=True)]
    return Sources(renamed_apart(adapters), hashes=tuple(opened.sha256 for opened in found))


def renamed_apart(adapters: Sequence[Adapter]) -> tuple[Adapter, ...]:
    """The adapters under names of their own: a second `math` becomes `math 2`."""
    taken: set[str] = set()
    found = []
    for adapter in adapters:
        name, number = adapter.name, 2
        while name in taken:
            name, number = f"{adapter.name} {number}", number + 1
        taken.add(name)
        found.append(replace(adapter, name=name))
    return tuple(found)
