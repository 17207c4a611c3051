"""The questions of the embedded text world: sums, word problems, facts and words, each with its plain answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Final, get_args

from studio.text.knowledge import FACTS, LEXICON, NUMBERS, RELATIONS, SUMS, WORDS, Operator, Sum


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


def long_list_question(rng: Random) -> Question:
    """Two to six words, to be counted."""
    words = tuple(rng.sample(LEXICON, rng.randint(2, 6)))
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
