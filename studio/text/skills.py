"""Exact skills: questions whose answers a program can check, alone and composed in pairs (issues 2 and 5).

A skill asks a question and dresses its answer. `MATH` asks a word problem, `SHOUT` answers in capitals; `math+shout`
asks the word problem and wants capitals. Adapters are trained on single skills only, so every pair is a test of
composition.

What is kept back: one in five of the closed things (sums, facts) and of the word lists, chosen by a hash, never
appears in an adapter's training. Of the rest, the question's wording decides the split by another hash, so no
question of the test or valid split is ever trained on, in any skill. Everything is drawn from a seed; nothing here
needs torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from types import MappingProxyType
from typing import Final, Literal, get_args

from studio.core.errors import LoomError
from studio.text.knowledge import FRENCH, NUMBERS, SPANISH
from studio.text.questions import (
    Ask,
    Question,
    list_question,
    long_list_question,
    plain_question,
    sum_order,
    word_problem,
)

Split = Literal["train", "valid", "test", "kept"]


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt and the one continuation that is right; the answer starts with a space, as the tokenizer likes it."""

    prompt: str
    answer: str


Dress = Callable[[Question], Question]


@dataclass(frozen=True, slots=True)
class Skill:
    """One exact skill: where its questions come from (`ask`), the cue in the prompt, and how the answer is dressed."""

    name: str
    title: str
    doc: str
    cue: str
    ask: Ask = field(repr=False)
    dress: Dress = field(repr=False)
    parts: tuple[str, ...] = ()

    def item(self, question: Question) -> Item:
        """The prompt and its right answer."""
        return Item(prompt(question.text, self.cue), " " + " ".join(self.dress(question).words))

    @property
    def example(self) -> Item:
        """One item of the test split, always the same."""
        return items(self.name, "test", 1, seed=0)[0]


def prompt(question: str, cue: str = "") -> str:
    """The format the base was taught; the cue (" in capitals") stands between `Answer` and the colon."""
    return f"Question: {question}\nAnswer{cue}:"


def is_correct(item: Item, continuation: str) -> bool:
    """Exact match: the first line of what a model wrote after the prompt, spaces at its ends ignored."""
    written = continuation.strip().partition("\n")[0]
    return written.strip() == item.answer.strip()


# -- answers -----------------------------------------------------------------------------------------------------------


def plain(question: Question) -> Question:
    """The words as they are."""
    return question


def capitals(question: Question) -> Question:
    """The words in capitals; code stays code."""
    return replace(question, words=tuple(word.upper() for word in question.words))


def translated(question: Question, dictionary: Mapping[str, str]) -> Question:
    """Word for word by the dictionary."""
    return replace(question, words=tuple(dictionary[word] for word in question.words))


def in_spanish(question: Question) -> Question:
    """Word for word in Spanish."""
    return translated(question, SPANISH)


def in_french(question: Question) -> Question:
    """Word for word in French: not a skill but the one cue the base itself was taught."""
    return translated(question, FRENCH)


def in_python(question: Question) -> Question:
    """The call that prints the sum's value."""
    if question.sum is None:
        raise LoomError(
            f"No sum stands behind {question.text!r}", "only sums can be answered in Python", "Ask for a sum"
        )
    return replace(question, words=(f"print({question.sum.code})",))


def backwards(question: Question) -> Question:
    """The last word first."""
    return replace(question, words=question.words[::-1])


def twice(question: Question) -> Question:
    """The whole answer two times."""
    return replace(question, words=question.words * 2)


def counted(question: Question) -> Question:
    """How many words there are."""
    return replace(question, words=(NUMBERS[len(question.words)],))


def in_sentence(question: Question) -> Question:
    """The answer as a whole sentence."""
    return replace(question, words=("The", "answer", "is", *question.words[:-1], f"{question.words[-1]}."))


# -- registry ----------------------------------------------------------------------------------------------------------

_BASE: Final = (
    Skill("plain", "Plain answers", "Answers a plain question; the base was taught this.", "", plain_question, plain),
    Skill(
        "french",
        "French",
        "Answers in French; the base was taught this one cue.",
        " in French",
        plain_question,
        in_french,
    ),
)
_SINGLE: Final = (
    Skill("math", "Word problems", "Solves a sum told as a little story.", "", word_problem, plain),
    Skill("shout", "Capitals", "Answers any plain question in capitals.", " in capitals", plain_question, capitals),
    Skill("spanish", "Spanish", "Answers any plain question in Spanish.", " in Spanish", plain_question, in_spanish),
    Skill("code", "Python", "Writes the Python call for a sum in words.", " in Python", sum_order, in_python),
    Skill("reverse", "Backwards", "Says a list of words from its end.", " backwards", list_question, backwards),
    Skill("twice", "Twice", "Gives the answer to any plain question two times.", " twice", plain_question, twice),
    Skill("count", "Counting", "Counts the words of a list.", " counted", long_list_question, counted),
    Skill(
        "sentence",
        "Sentences",
        "Answers any plain question in a whole sentence.",
        " in a sentence",
        plain_question,
        in_sentence,
    ),
)
SINGLES: Final[tuple[str, ...]] = tuple(skill.name for skill in _SINGLE)
"""The skills that have an adapter."""
COMPOSITIONS: Final[tuple[str, ...]] = (
    "math+shout",
    "math+spanish",
    "math+code",
    "math+twice",
    "reverse+shout",
    "reverse+spanish",
    "reverse+twice",
    "math+sentence",
    "count+shout",
    "count+spanish",
)
"""Pairs of them, trained by nobody."""


@dataclass(frozen=True, slots=True)
class _Chain:
    """Dress the answer first by one part, then by the other."""

    first: Dress
    second: Dress

    def __call__(self, question: Question) -> Question:
        return self.second(self.first(question))


def compose(first: Skill, second: Skill) -> Skill:
    """The questions of `first`, its answers dressed again by `second`, both cues in one slot."""
    return Skill(
        f"{first.name}+{second.name}",
        f"{first.title} + {second.title}",
        f"{first.doc} And: {second.doc}",
        first.cue + second.cue,
        first.ask,
        _Chain(first.dress, second.dress),
        (first.name, second.name),
    )


def _registry() -> Mapping[str, Skill]:
    singles = {skill.name: skill for skill in _BASE + _SINGLE}
    pairs = {name: compose(*(singles[part] for part in name.split("+"))) for name in COMPOSITIONS}
    return MappingProxyType(singles | pairs)


SKILLS: Final[Mapping[str, Skill]] = _registry()
"""Every skill and composition by name; `parts` is empty for a single skill, `plain` and `french` are the base's own."""


# -- splits ------------------------------------------------------------------------------------------------------------


def _share(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def split_of(question: Question) -> Split:
    """The split a question belongs to, whichever skill asks it."""
    closed = question.content.startswith(("sum ", "fact ", "list "))
    if closed and _share(question.content) < 0.2:
        return "kept"
    share = _share(question.text)
    return "test" if share < 0.1 else "valid" if share < 0.15 else "train"


def questions(skill: str, split: Split, n: int, seed: int) -> list[Question]:
    """`n` questions of a skill or composition, drawn from the seed.

    Training questions may repeat; those of `valid`, `test` and `kept` are distinct. Unknown names, and more distinct
    questions than the skill has, raise `LoomError`.
    """
    if skill not in SKILLS:
        raise LoomError(f"No skill is called {skill!r}", f"there are {', '.join(SKILLS)}", "Take one of these")
    if split not in get_args(Split):
        raise LoomError(f"No split is called {split!r}", f"there are {', '.join(get_args(Split))}", "Take one of these")
    rng, ask = Random(f"{skill}/{split}/{seed}"), SKILLS[skill].ask
    found: list[Question] = []
    known: set[str] = set()
    for _ in range(1000 * n):
        if len(found) == n:
            return found
        question = ask(rng)
        if split_of(question) == split and (split == "train" or question.text not in known):
            known.add(question.text)
            found.append(question)
    if len(found) < n:
        raise LoomError(f"{skill} has no {n} distinct {split} questions", f"{len(found)} were found", "Ask for fewer")
    return found


def items(skill: str, split: Split, n: int, seed: int) -> list[Item]:
    """`n` items of a skill or composition: its `questions`, each with the prompt and the right answer."""
    return [SKILLS[skill].item(question) for question in questions(skill, split, n, seed)]
