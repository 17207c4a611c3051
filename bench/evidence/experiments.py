"""The experiments: what is merged, learned or trained, and under which name its row appears."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import studio
from bench.evidence.world import EVERY, PAIRS, POOL, TARGETS, Rows, World, ensemble, folder_of, merged
from studio.core.adapter import Adapter
from studio.evaluation.score import Variant
from studio.formats import save_adapter
from studio.learning.adamerge import SETTINGS as ADAMERGE
from studio.learning.adamerge import adamerge
from studio.learning.coefficients import Settings
from studio.learning.controls import TargetSettings, random_like, target_lora
from studio.learning.fit import Schedule
from studio.learning.lorahub import Search, lorahub
from studio.learning.recycle import Recycling, recycle
from studio.learning.regmean import input_grams, regmean
from studio.learning.soup import learn
from studio.text.skills import items

TARGET_STEPS, TARGET_RATE = 200, 1e-3
FORMS = ("raw", "canonical", "aligned")
CLUSTERS = (4, 8, 12, 16)


def fixed(world: World, pair: str) -> Rows:
    """(a) Merges that learn nothing, the base and each adapter alone."""
    ab = world.pair(pair)
    merge = partial(studio.merge, ab, seed=world.seed)
    variants: dict[str, Variant] = {
        "base": None,
        "first alone": ab[0],
        "second alone": ab[1],
        "uniform cat": merge("cat", [0.5, 0.5]),
        "sum": merge("cat", [1, 1]),
        "linear": merge("linear", [1, 1]),
        "svd": merge("svd", [1, 1]),
        "TIES": merge("ties", [1, 1]),
        "DARE": merge("dare", [1, 1]),
        "KnOTS": merge("knots", [1, 1]),
        "LEGO": merge("lego", form="raw"),
    }
    return world.measure(variants, pair)


def own(world: World, pair: str) -> Rows:
    """(a) Coefficients from the adapters' own data, or from prompts alone."""
    ab, base = world.pair(pair), world.base
    settings = Settings(schedule=Schedule(seed=world.seed))
    unlabelled = replace(ADAMERGE, schedule=Schedule(rate=1e-2, steps=50, batch=16, seed=world.seed))
    parts = [items(part, "train", 2 * world.size.examples, world.seed) for part in pair.split("+")]
    grams = [input_grams(base, adapter, part) for adapter, part in zip(ab, parts, strict=True)]
    prompts = [item.prompt for item in world.examples(pair).all]
    variants: dict[str, Variant] = {
        "RegMean, own data": regmean(ab, grams),
        "CAT, own data": merged(ab, learn(base, ab, world.own_examples(pair), settings)),
        "AdaMerging, 50 prompts": merged(ab, adamerge(base, ab, prompts, unlabelled)),
    }
    return world.measure(variants, pair)


def few(world: World, pair: str) -> Rows:
    """(a) Coefficients from a few examples of the composition."""
    ab, base, given = world.pair(pair), world.base, world.examples(pair)
    variants: dict[str, Variant] = {
        "LoraHub, 50": merged(ab, lorahub(base, ab, given, Search(seed=world.seed))),
        "CAT, 50": merged(ab, learn(base, ab, given, Settings(schedule=Schedule(seed=world.seed)))),
    }
    return world.measure(variants, pair)


def controls(world: World, pair: str) -> Rows:
    """(a) What the examples alone would have taught, and what random adapters make of them."""
    ab, base, given = world.pair(pair), world.base, world.examples(pair)
    fake = random_like(ab, world.seed)
    variants: dict[str, Variant] = {
        "target LoRA, 50": target(world, pair),
        "random LoRAs + CAT, 50": merged(fake, learn(base, fake, given, Settings(schedule=Schedule(seed=world.seed)))),
    }
    return world.measure(variants, pair)


def mixing(world: World, pair: str) -> Rows:
    """(a) One LoRA trained by the adapters' own recipe on the data of both skills (`bench.evidence.seeds`)."""
    folder = folder_of(pair, world.seed)
    if folder is None:
        raise FileNotFoundError(f"no mixed LoRA of {pair}, seed {world.seed}: python -m bench.evidence.seeds {pair}")
    return world.measure({"data mixing": studio.open_adapter(folder)}, pair)


def target(world: World, pair: str) -> Adapter:
    """A plain LoRA of the adapters' rank on the pair's examples, the step that validates best; trained once, kept."""
    folder = TARGETS / f"{pair.replace('+', '-')}-{world.seed}"
    if not (folder / "adapter_config.json").is_file():
        schedule = Schedule(rate=TARGET_RATE, steps=TARGET_STEPS, check_every=TARGET_STEPS // 10, seed=world.seed)
        like, settings = world.pair(pair), TargetSettings(schedule=schedule)
        save_adapter(target_lora(world.base, like, world.examples(pair), settings), folder)
    return replace(studio.open_adapter(folder), name="target")


def lego(world: World, pair: str) -> Rows:
    """(b) LEGO over k and unit forms, beside averaging, the sum and the ensemble of outputs."""
    ab = world.pair(pair)
    variants: dict[str, Variant] = {
        "average": studio.merge(ab, "cat", [0.5, 0.5]),
        "sum": studio.merge(ab, "cat", [1, 1]),
        **{
            f"LEGO {form}, k={k}": studio.merge(ab, "lego", seed=world.seed, k=k, form=form)
            for form in FORMS
            for k in CLUSTERS
        },
    }
    rows = world.measure(variants, pair)
    rows["output ensemble"] = {task.name: ensemble(world.base, ab, task) for task in world.tasks(pair)}
    return rows


def recycled(world: World, pair: str, *, which: str, is_random: bool) -> Rows:
    """(c) Recycling from one pool, without and with the target LoRA in it; beside the target LoRA alone."""
    parts = pair.split("+")
    pools: Mapping[str, Sequence[str]] = {
        "relevant pool": POOL,
        "irrelevant pool": [name for name in POOL if name not in parts],
        "the pair alone": parts,
    }
    pool: Sequence[Adapter] = [world.adapters[name] for name in pools[which]]
    pool = random_like(pool, world.seed) if is_random else pool
    label = f"random, {which}" if is_random else which
    alone, given = target(world, pair), world.examples(pair)
    variants: dict[str, Variant] = {"target LoRA": alone}
    settings = Recycling(4, settings=Settings("leaky", schedule=Schedule(seed=world.seed)), seed=world.seed)
    for row, helper in ((label, None), (f"{label} + target", alone)):
        found = recycle(world.base, pool, given, settings, target=helper)
        variants[row] = merged(found.adapters, found.soup)
    return world.measure(variants, pair)


RECYCLED: Mapping[str, Callable[[World, str], Rows]] = {
    "real-relevant": partial(recycled, which="relevant pool", is_random=False),
    "real-pair": partial(recycled, which="the pair alone", is_random=False),
    "real-irrelevant": partial(recycled, which="irrelevant pool", is_random=False),
    "random-relevant": partial(recycled, which="relevant pool", is_random=True),
    "random-irrelevant": partial(recycled, which="irrelevant pool", is_random=True),
}


@dataclass(frozen=True)
class Experiment:
    """A function of a world and a pair, and the pairs it is made for."""

    run: Callable[[World, str], Rows]
    pairs: tuple[str, ...] = EVERY


EXPERIMENTS: Mapping[str, Experiment] = {
    "fixed": Experiment(fixed),
    "own": Experiment(own),
    "few": Experiment(few),
    "controls": Experiment(controls),
    "lego": Experiment(lego, PAIRS[:1]),
    **{name: Experiment(run, PAIRS[:1]) for name, run in RECYCLED.items()},
    "mixing": Experiment(mixing, PAIRS),
}
