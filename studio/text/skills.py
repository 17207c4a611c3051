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

from studio.errors import LoomError
from studio.text.knowledge import FACTS, FRENCH, LEXICON, NUMBERS, RELATIONS, SPANISH, SUMS, WORDS, Operator, Sum

Split = Literal["train", "valid", "test", "kept"]


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt and the one continuation that is right; the answer starts with a space, as the tokenizer likes it."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question and what a plain answer says: English words of the lexicon, and the sum behind them if there is one.

    `content` names what is asked about; it decides whether the question is kept back from every adapter's training.
    """

    text: str
    words: tuple[str, ...]
    content: str
    sum: Sum | None = None


Ask = Callable[[Random], Question]
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


# -- questions ---------------------------------------------------------------------------------------------------------

_GIRLS: Final = ["Lily", "Mia", "Anna", "Sue", "Lucy", "Emma", "Zoe", "Ella", "Nora", "Ruby"]
_BOYS: Final = ["Tom", "Ben", "Tim", "Max", "Sam", "Leo", "Jack", "Finn", "Noah", "Otto"]
_THINGS: Final = [
    "apples",
    "pears",
    "stones",
    "shells",
    "buttons",
    "books",
    "coins",
    "eggs",
    "flowers",
    "cakes",
    "balls",
    "kites",
    "nuts",
    "stars",
    "hats",
    "fish",
]

_PHRASES: Mapping[Operator, tuple[str, ...]] = MappingProxyType(
    {
        "+": (
            "{a} plus {b}",
            "the sum of {a} and {b}",
            "{a} and {b} together",
            "{b} more than {a}",
            "{b} added to {a}",
        ),
        "-": (
            "{a} minus {b}",
            "{a} take away {b}",
            "the difference of {a} and {b}",
            "{b} less than {a}",
            "{b} taken from {a}",
        ),
        "*": ("{a} times {b}", "the product of {a} and {b}", "{a} multiplied by {b}", "{a} groups of {b}"),
        "//": ("{a} divided by {b}", "{a} shared by {b}", "{a} split into {b} equal parts", "{a} over {b}"),
    }
)
_ORDERS: Mapping[Operator, tuple[str, ...]] = MappingProxyType(
    {
        "+": ("Add {b} to {a}.", "Put {a} and {b} together."),
        "-": ("Subtract {b} from {a}.", "Take {b} away from {a}."),
        "*": ("Multiply {a} by {b}.", "Find {a} times {b}."),
        "//": ("Divide {a} by {b}.", "Split {a} by {b}."),
    }
)
_PROBLEMS: Mapping[Operator, tuple[str, ...]] = MappingProxyType(
    {
        "+": (
            "{N} has {a} {o}. {H} finds {b} more. How many {o} does {N} have now?",
            "{N} has {a} {o}. {H} buys {b} more. How many {o} does {N} have now?",
            "There are {a} {o} in the box. {N} puts {b} more there. How many {o} are there?",
            "There are {a} {o} on the table. {N} drops {b} more there. How many {o} are there?",
            "{N} has {a} {o} and {M} has {b} {o}. How many {o} do they have together?",
            "{M} gives {N} {b} {o}. {N} had {a} {o} before. How many {o} does {N} have now?",
            "After {N} found {b} {o}, {h} put them with {a} old {o}. How many {o} are there?",
        ),
        "-": (
            "{N} has {a} {o}. {H} loses {b}. How many {o} are left?",
            "{N} has {a} {o}. {H} sells {b}. How many {o} are left?",
            "There are {a} {o} in the box. {N} takes {b} away. How many {o} are left?",
            "There are {a} {o} on the table. {N} hides {b}. How many {o} are left?",
            "{N} gives {b} {o} to {M}. {N} had {a} {o} before. How many {o} does {N} have now?",
            "{N} has {a} {o} and {M} has {b} {o}. How many more {o} does {N} have than {M}?",
            "After {b} of the {a} {o} fell into the pond, how many {o} did {N} still have?",
        ),
        "*": (
            "{N} has {a} bags. Each bag holds {b} {o}. How many {o} does {N} have?",
            "There are {a} boxes with {b} {o} in each box. How many {o} are there?",
            "{N} picks {b} {o} every day for {a} days. How many {o} does {N} have?",
            "Each of {a} friends brings {b} {o}. How many {o} do they bring?",
        ),
        "//": (
            "{N} shares {a} {o} equally among {b} friends. How many {o} does each friend get?",
            "{N} puts {a} {o} into {b} bags, the same in each bag. How many {o} are in each bag?",
            "{b} children split {a} {o} fairly. How many {o} does each child get?",
            "There are {a} {o} for {b} plates. How many {o} go on each plate?",
        ),
    }
)


def _sum(rng: Random) -> Sum:
    """Each operator as often as the others, though there are fewer products than sums."""
    operator = rng.choice(get_args(Operator))
    return rng.choice([sum_ for sum_ in SUMS if sum_.operator == operator])


def _worded(text: str, sum_: Sum, **more: str) -> Question:
    filled = text.format(a=NUMBERS[sum_.left], b=NUMBERS[sum_.right], **more)
    return Question(filled[0].upper() + filled[1:], (NUMBERS[sum_.result],), f"sum {sum_.code}", sum_)


def sum_question(rng: Random) -> Question:
    """A sum in plain words: "What is three plus four?"."""
    sum_ = _sum(rng)
    phrase = rng.choice(_PHRASES[sum_.operator])
    return _worded(rng.choice([f"What is {phrase}?", f"How much is {phrase}?", f"Tell me {phrase}."]), sum_)


def sum_order(rng: Random) -> Question:
    """A sum as a question or as an order: "Subtract two from nine."."""
    if rng.random() < 0.6:
        return sum_question(rng)
    sum_ = _sum(rng)
    return _worded(rng.choice(_ORDERS[sum_.operator]), sum_)


def word_problem(rng: Random) -> Question:
    """A sum inside a little story; the base never saw one."""
    girl = rng.random() < 0.5
    name, other = rng.sample(_GIRLS if girl else _BOYS, 2)
    sum_ = _sum(rng)
    while 1 in (sum_.left, sum_.right):  # "one apples"
        sum_ = _sum(rng)
    words = {
        "N": name,
        "M": other,
        "h": "she" if girl else "he",
        "H": "She" if girl else "He",
        "o": rng.choice(_THINGS),
    }
    return _worded(rng.choice(_PROBLEMS[sum_.operator]), sum_, **words)


def fact_question(rng: Random) -> Question:
    """A fact in one of its relation's wordings."""
    fact = rng.choice(FACTS)
    text = rng.choice(RELATIONS[fact.relation].wordings).format(fact.subject)
    return Question(text, (fact.answer,), f"fact {fact.relation} {fact.subject}")


def list_question(rng: Random) -> Question:
    """Words to say again, two to four of them."""
    words = tuple(rng.sample(LEXICON, rng.randint(2, 4)))
    return Question(f"Say: {' '.join(words)}", words, f"list {' '.join(words)}")


def word_question(rng: Random) -> Question:
    """One word to say again; a word is never kept back, or no adapter could know it."""
    word = rng.choice(LEXICON)
    return Question(rng.choice(["Say: {}", "Say the word {}.", "Write {}."]).format(word), (word,), f"word {word}")


def place_question(rng: Random) -> Question:
    """The first or the last of some words."""
    words = rng.sample(WORDS, rng.randint(2, 4))
    which, word = rng.choice([("first", words[0]), ("last", words[-1])])
    return Question(f"Which word comes {which}: {' '.join(words)}?", (word,), f"list {' '.join(words)}")


def order_question(rng: Random) -> Question:
    """Which number is more or less, or stands beside another."""
    low, high = sorted(rng.sample(range(len(NUMBERS)), 2))
    pair = rng.sample([NUMBERS[low], NUMBERS[high]], 2)
    text, word = rng.choice(
        [
            (f"Which is more, {pair[0]} or {pair[1]}?", NUMBERS[high]),
            (f"Which is less, {pair[0]} or {pair[1]}?", NUMBERS[low]),
            (f"Which number comes after {NUMBERS[high - 1]}?", NUMBERS[high]),
            (f"Which number comes before {NUMBERS[low + 1]}?", NUMBERS[low]),
        ]
    )
    return Question(text, (word,), f"order {text}")


_PLAIN: Final[tuple[tuple[Ask, float], ...]] = (
    (sum_question, 0.30),
    (fact_question, 0.30),
    (list_question, 0.15),
    (word_question, 0.05),
    (place_question, 0.10),
    (order_question, 0.10),
)


def plain_question(rng: Random) -> Question:
    """Any question whose plain answer the base was taught."""
    ask: Ask = rng.choices([ask for ask, _ in _PLAIN], [share for _, share in _PLAIN])[0]
    return ask(rng)


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
