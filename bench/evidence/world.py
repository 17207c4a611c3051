"""What every experiment shares: the base, the adapters of one seed, and outcomes kept item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import studio
from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter
from studio.evaluation.score import Variant, answer_logits, score, table_of
from studio.evaluation.tasks import Task, skill_task
from studio.learning.coefficients import Soup
from studio.learning.data import Examples, split
from studio.recipes.sources import Sources, embedded_paths
from studio.text.bases import TextBase
from studio.text.rows import Block, stack_factors, view_with_rows
from studio.text.skills import items

POOL = ("code", "math", "recipes", "reverse", "shakespeare", "shout", "spanish", "twice")
"""The adapters that recycling chooses from; `count` and `sentence` came after those experiments."""
PAIRS = ("math+shout", "math+spanish", "math+code")
MORE = ("count+shout", "count+spanish", "math+sentence")
"""Pairs with the adapters that came later: merged and learned, by the shipped adapters alone."""
EVERY = (*PAIRS, *MORE)
ROOT = Path(__file__).resolve().parents[2]
SHIPPED = 0
"""The adapters' seed that is in assets/text."""
SEEDS = ROOT / "build" / "seeds"
"""Where `bench.evidence.seeds` puts adapters: SEED/SKILL; seed 0 ships."""
TARGETS = ROOT / "build" / "evidence" / "targets"
"""Where target LoRAs are kept, by pair and seed."""
Rows = dict[str, dict[str, str]]
"""By row, then by task: a 1 for each item that was right, a 0 for each that was not."""


@dataclass(frozen=True)
class Size:
    """Test items of a composition (seen and kept each) and of each own skill, and examples to learn from."""

    composition: int = 100
    own: int = 60
    examples: int = 50


@dataclass(frozen=True, eq=False)
class World:
    """The base, adapters by name, the seed of whatever is drawn or trained, and how much is measured."""

    base: TextBase
    adapters: Mapping[str, Adapter]
    seed: int
    size: Size

    def pair(self, name: str) -> list[Adapter]:
        """The adapters of a composition."""
        return [self.adapters[part] for part in name.split("+")]

    def examples(self, name: str) -> Examples:
        """A few examples of a skill or composition, from its training split."""
        return split(items(name, "train", self.size.examples, self.seed), seed=self.seed)

    def own_examples(self, pair: str) -> Examples:
        """Twice as many of each part's own skill."""
        found = [item for part in pair.split("+") for item in items(part, "train", 2 * self.size.examples, self.seed)]
        return split(found, seed=self.seed)

    def tasks(self, pair: str) -> list[Task]:
        """The composition on seen and on kept-back content, and each part's own skill; test data only."""
        own = [skill_task(part, "test", self.size.own) for part in pair.split("+")]
        return [skill_task(pair, split, self.size.composition) for split in ("test", "kept")] + own

    def measure(self, variants: Mapping[str, Variant], pair: str) -> Rows:
        """Score the variants at the pair's tasks, all of them by one batch."""
        rows: Rows = {name: {} for name in variants}
        for task in self.tasks(pair):
            for name, found in zip(variants, score(self.base, task, list(variants.values())), strict=True):
                rows[name][task.name] = bits(found.right)
        return rows


def bits(right: Sequence[float]) -> str:
    """Outcomes as a string of 0 and 1."""
    return "".join(str(int(value)) for value in right)


def folder_of(name: str, seed: int) -> Path | None:
    """Where the adapter of a seed is, if it is at hand."""
    shipped = embedded_paths().get(f"loom:{name}") if seed == SHIPPED else None
    found = shipped or SEEDS / str(seed) / name
    return found if (found / "adapter_config.json").is_file() else None


def adapters_of(seed: int) -> dict[str, Adapter]:
    """The embedded adapters, those that were trained with this seed in place of the shipped."""
    shipped = {path.removeprefix("loom:"): folder for path, folder in embedded_paths().items()}
    return {name: studio.open_adapter(folder_of(name, seed) or folder) for name, folder in shipped.items()}


def is_at_hand(pair: str, seed: int) -> bool:
    """Whether both adapters of a pair were trained with this seed."""
    return all(folder_of(part, seed) for part in pair.split("+"))


def merged(sources: Sequence[Adapter], found: Soup) -> Variant:
    """The soup as the adapter that is exported; one whose coefficients are all zero is the base."""
    if not any(units.any() for units in found.units.values()):
        return None
    return compose(found.into(recipe_for(sources, "cat", None, {})), Sources(tuple(sources))).adapter


def ensemble(base: TextBase, adapters: Sequence[Adapter], task: Task) -> str:
    """Outcomes of the mean of the adapters' token probabilities."""
    table = table_of(base, task.items)
    views = [
        view_with_rows(base.model, 1, [Block(0, stack_factors(base.model, [adapter]))], each=len(table))
        for adapter in adapters
    ]
    with torch.inference_mode():
        outputs = [answer_logits(view, table) for view in views]
    best = torch.stack([logits.softmax(-1) for logits, _ in outputs]).mean(0).argmax(-1)
    owner = table.answer[:, 1:].nonzero()[:, 0]
    wrong = torch.zeros(len(table)).index_add(0, owner, (best != outputs[0][1]).float())
    return bits([float(wrong[table.rows.index(i)] == 0) for i in range(len(task.items))])
