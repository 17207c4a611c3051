"""Synthetic stories: an opening, a hero's habit, one of the plots of `plots.txt` and an ending that fits it.

A plot's beats are drawn with one cast and one setting, so that names, things and morals stay the same from the first
sentence to the last. Every story comes from the random generator it is given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

CASTS = {"child": 0.42, "animal": 0.24, "wild": 0.18, "dragon": 0.06, "royal": 0.05, "robot": 0.05}
"""Shares of heroes; `wild` is an animal without a name, "the fox"."""


@dataclass(frozen=True, slots=True)
class Plot:
    """Beats in order; of the settings one is chosen for the whole story; a moral is sometimes added."""

    name: str
    cast: str
    beats: tuple[str, ...]
    morals: tuple[str, ...]
    settings: tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True)
class Words:
    """`words.txt`: lists of words by name ("girls", "elders of child"), sentences by section ("opening named")."""

    lists: Mapping[str, tuple[str, ...]]
    sections: Mapping[str, tuple[str, ...]]


@cache
def words() -> Words:
    """The lists and sections of `words.txt`."""
    head, *sections = re.split(r"^== ", _text("words.txt"), flags=re.M)
    pairs = (line.split(": ", 1) for line in head.splitlines() if ": " in line)
    blocks = (section.strip().splitlines() for section in sections)
    return Words({name: tuple(row.split(", ")) for name, row in pairs}, {name: tuple(rows) for name, *rows in blocks})


def _text(name: str) -> str:
    """A file beside this one, its comments left out."""
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("# "))


@dataclass(slots=True)
class _Draft:
    """A plot while it is read from its section."""

    beats: list[str] = field(default_factory=list)
    morals: list[str] = field(default_factory=list)
    settings: list[dict[str, str]] = field(default_factory=list)


@cache
def plots() -> tuple[Plot, ...]:
    """The plots of `plots.txt`."""
    return tuple(_plot(section) for section in re.split(r"^== ", _text("plots.txt"), flags=re.M)[1:])


def _plot(section: str) -> Plot:
    head, *lines = section.strip().splitlines()
    name, _, cast = head.partition(" [")
    draft = _Draft()
    for line in filter(None, lines):
        if line.startswith("! "):
            draft.morals.append(line[2:])
        elif line.startswith("> "):
            draft.settings.append(dict(pair.split("=", 1) for pair in line[2:].split("; ")))
        else:
            draft.beats.append(line)
    return Plot(name, cast.rstrip("]") or "any", tuple(draft.beats), tuple(draft.morals), tuple(draft.settings))


def _hero(rng: Random, cast: str, taken: set[str], banned: str) -> dict[str, str]:
    """One character: how it is called, introduced and referred to; `banned` is text whose animals it must not be."""
    lists = words().lists
    boy = rng.random() < 0.5
    he, him, his = ("he", "him", "his") if boy else ("she", "her", "her")
    people = lists["boys" if boy else "girls"]
    kinds = [animal for animal in lists["animals"] if animal not in taken and not re.search(rf"\b{animal}", banned)]
    size = rng.choice(["little", "small", "young", ""])
    names, kind = {
        "child": (people, rng.choice(["boy", "little boy"] if boy else ["girl", "little girl"])),
        "animal": (lists["pet_names"], f"{size} {rng.choice(kinds)}".strip()),
        "wild": ((), rng.choice(kinds)),
        "dragon": (lists["dragon_names"] if rng.random() < 0.5 else (), "dragon"),
        "royal": (people if rng.random() < 0.5 else (), "king" if boy else "queen"),
        "robot": (lists["robot_names"], "little robot"),
    }[cast]
    name = rng.choice([name for name in names if name not in taken] or [f"the {kind}"])
    named = not name.startswith("the ")
    trait = rng.choice(["", "", rng.choice(lists["traits"]) + " "])
    intro = f"a {trait}{kind} {rng.choice(['named', 'named', 'called'])} {name}" if named else f"a {trait}{kind}"
    himself = "himself" if boy else "herself"
    forms = {"": name, "kind": kind, "intro": intro, "name": name if named else f"little {kind}", "himself": himself}
    return forms | {"he": he, "him": him, "his": his, "He": he.capitalize(), "His": his.capitalize()}


def _environment(rng: Random, plot: Plot, cast: str) -> dict[str, str]:
    """Everything a `$name` can mean in one story."""
    lists, text = words().lists, " ".join(plot.beats)
    hero = _hero(rng, cast, set(), text)
    friendly = cast if cast in ("child", "animal", "wild") else rng.choice(["child", "animal"])
    friend = _hero(rng, "animal" if rng.random() < 0.15 else friendly, {hero[""], *hero["kind"].split()}, text)
    busy = {*hero["kind"].split(), *friend["kind"].split()}
    elders = lists[f"elders of {'animal' if cast == 'wild' else cast if cast in ('child', 'animal') else 'all'}"]
    environment = {
        "C": rng.choice([elder for elder in elders if not busy & set(elder.split())]),
        "animal": rng.choice([name for name in lists["runners"] if name not in busy]),
        "petname": rng.choice(lists["pet_names"]),
        "parent": rng.choice(["mom", "dad"]),
    }
    environment["Parent"] = environment["parent"].capitalize()
    environment |= zip(("place", "place2"), rng.sample(lists["places"], 2), strict=True)
    environment |= zip(("spot", "spot2", "spot3"), rng.sample(lists["spots"], 3), strict=True)
    environment |= zip(("trait", "trait2"), rng.sample(lists["traits"], 2), strict=True)
    environment |= {key: rng.choice(lists[key + "s"]) for key in ("toy", "color", "food", "day")}
    environment |= {"A" + key: value for key, value in hero.items()}
    environment |= {"B" + key: value for key, value in friend.items()}
    return environment | (rng.choice(plot.settings) if plot.settings else {})


def _choose(rng: Random, text: str) -> str:
    """Every `{a|b}` replaced by one of its alternatives, inner ones first."""
    while match := re.search(r"\{([^{}]*)\}", text):
        text = text[: match.start()] + rng.choice(match.group(1).split("|")) + text[match.end() :]
    return text


def _fill(text: str, environment: dict[str, str]) -> str:
    """Every `$name` replaced, twice because a setting may hold names; then articles and capitals put right."""
    for _ in range(2):
        text = re.sub(r"\$(\w+)", lambda match: environment[match.group(1)], text)
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    text = re.sub(r'(^|\n|[.!?] "?|\." )([a-z])', lambda match: match.group(1) + match.group(2).upper(), text)
    speech = "asked|said|wondered|shouted|called|cried|thought|whispered|growled"
    return re.sub(rf'([!?]" )the (?!(?:\w+ )*(?:{speech})\b)', r"\1The ", text)


def story(rng: Random) -> str:
    """One story of about 120 to 220 words, in two to four paragraphs of one line each."""
    sections, plot = words().sections, rng.choice(plots())
    cast = rng.choices(list(CASTS), list(CASTS.values()))[0] if plot.cast == "any" else plot.cast
    if cast == "animal" and rng.random() < 0.4:
        cast = "wild"
    environment = _environment(rng, plot, cast)
    unnamed = environment["A"].startswith("the ")
    opening = rng.choice(sections[f"opening {rng.choices(['unnamed' if unnamed else 'named', 'either'], [5, 1])[0]}"])
    beats = [_choose(rng, beat) for beat in plot.beats]
    head = [_choose(rng, opening)] + ([_choose(rng, rng.choice(sections["habit"]))] if rng.random() < 0.67 else [])
    first = re.search(r"\$B\w*", " ".join(beats))
    if first and first.group() != "$Bintro":
        head.append(rng.choice(sections["friend"]))
    ends = [rng.choice(plot.morals)] if plot.morals and rng.random() < 0.35 else []
    ends += [rng.choice(sections["close"])] if rng.random() < 0.15 else []
    return _fill(_paragraphs(rng, " ".join(filter(None, head)), beats, " ".join(ends)), environment)


def _paragraphs(rng: Random, head: str, beats: list[str], end: str) -> str:
    """The parts joined; a new paragraph before the day it happened and, now and then, between later beats."""
    text = head
    for number, beat in enumerate(beats):
        text += ("\n" if rng.random() < (0.75 if number == 0 else 0.3) else " ") + beat
    return text + (rng.choice(["\n", " "]) + end if end else "")
