"""What a router is trained on: items, each with its task and, where that is known, the adapters it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from studio.core.errors import BadRecipe
from studio.evaluation.tasks import named_task
from studio.routing.router import BASE
from studio.text.skills import SKILLS, Item, Split, items


@dataclass(frozen=True, slots=True)
class Labelled:
    """An item, its task's name, and the names of the adapters that answer it; none where the truth is unknown."""

    item: Item
    task: str
    adapters: frozenset[str] = frozenset()


def skill_items(skills: Sequence[str], split: Split, n: int, seed: int, *, k: int = 1) -> list[Labelled]:
    """`n` items of each skill or composition, shuffled.

    The truth is the skill's own adapter, for a composition both; where fewer than k, the bare base fills up.
    """
    found = []
    for skill in skills:
        if skill not in SKILLS:
            raise BadRecipe(f"No skill is called {skill!r}", f"there are {', '.join(SKILLS)}")
        truth = frozenset(SKILLS[skill].parts or ((skill,) if skill not in ("plain", "french") else ()))
        truth |= {BASE} if len(truth) < k or not truth else frozenset()
        found += [Labelled(item, skill, truth) for item in items(skill, split, n, seed)]
    return Random(seed).sample(found, len(found))


def named_items(name: str, n: int, seed: int, *, k: int = 1) -> list[Labelled]:
    """Items by one word: `math,shout,math+shout[:SPLIT]` are skills, another word a JSONL file of unknown truth."""
    skills, _, split = name.partition(":")
    if n < 1:
        raise BadRecipe(f"{n} items of {name} cannot be asked", next="ask for 1 or more")
    if all(skill in SKILLS for skill in skills.split(",")):
        return skill_items(skills.split(","), split or "train", n, seed, k=k)  # type: ignore[arg-type]
    task = named_task(name, n, seed)
    if task.kind != "exact":
        raise BadRecipe(f"{name} holds texts", "a router learns from questions", "write prompts and answers")
    return [Labelled(item, task.name) for item in task.items]
