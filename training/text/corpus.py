"""From text files to token streams: cleaning, augmentation, knowledge lines, the tokenizer.

Texts are read from a folder laid out like this (see the card in `assets/text/README.md` for sources and licences):
`tinystories-train-head.txt`, `tinystories-valid-head.txt`, story books `se-*.txt` and `gutenberg-*.txt`, and for the
voices `skills/tinyshakespeare.txt`, `skills/recipes.jsonl`, `aesop-for-children.txt`, `se-aesop-fables.txt`,
`gutenberg-mother-goose-rhymes.txt`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from studio.core.errors import MissingFile
from studio.text.knowledge import FRENCH, LEXICON, NUMBERS, SPANISH, SUMS
from studio.text.questions import plain_question, sum_question
from studio.text.skills import SKILLS, Skill
from training.text.stories import story, words

END = "<|endoftext|>"
VOICES = ("shakespeare", "recipes", "fable", "rhyme")
SHIPPED_VOICES = ("shakespeare", "recipes")  # the others are weak: the card says how
_VOICE_FILES = {
    "shakespeare": ("skills/tinyshakespeare.txt",),
    "recipes": ("skills/recipes.jsonl",),
    "fable": ("aesop-for-children.txt", "se-aesop-fables.txt"),
    "rhyme": ("gutenberg-mother-goose-rhymes.txt",),
}
_PLAIN_SIGNS = {
    "â€œ": '"', "â€\x9d": '"', "â€™": "'", "â€˜": "'", "â€“": " - ", "â€”": " - ", "â€¦": "...", "â€": '"',
    "“": '"', "”": '"', "’": "'", "‘": "'", "—": " - ", "–": " - ", "…": "...", "\u00a0": " ", "_": "", "\r": "",
}  # fmt: skip
_TALK = (
    ("How are you?", "I am fine, thank you."),
    ("What is your name?", "I do not have a name yet."),
    ("Do you like stories?", "Yes, I love stories."),
    ("Can you help me?", "Yes, I will try."),
    ("Are you sad?", "No, I am happy today."),
    ("Good morning.", "Good morning to you."),
    ("Good night.", "Good night, sleep well."),
    ("Where do you live?", "I live in a small box."),
    ("Do you like cake?", "Yes, cake is very good."),
    ("Tell me a secret.", "The moon is a good listener."),
    ("What do you do all day?", "I think of little stories."),
    ("Thank you.", "You are welcome."),
)


def read(folder: Path, name: str) -> str:
    """One text file, cleaned; `MissingFile` says what to do when it is not there."""
    path = folder / name
    if not path.is_file():
        raise MissingFile(
            f"{path} is not there", "a text to train on is missing", "See the sources in assets/text/README.md"
        )
    return clean(path.read_text(encoding="utf-8", errors="ignore"))


def clean(text: str) -> str:
    """Straight quotes and plain dashes, also where they were decoded wrongly once; nothing outside ASCII."""
    for sign, plain in _PLAIN_SIGNS.items():
        text = text.replace(sign, plain)
    return re.sub(r"[^\x20-\x7e\n]", "", text)


def train_stories(folder: Path) -> list[str]:
    """The TinyStories of the training head, one string each."""
    parts = (part.strip() for part in read(folder, "tinystories-train-head.txt").split(END))
    return [re.sub(r"\n+", "\n", part) for part in parts if len(part) > 80]


def valid_stories(folder: Path) -> list[str]:
    """The TinyStories of the validation head; blank lines stand both inside and between them, so openings decide."""
    text = read(folder, "tinystories-valid-head.txt")
    parts = re.split(r"\n\n(?=Once|One day|There was|There once)|<.endoftext.>", text)
    return [re.sub(r" *\n+", "\n", part).strip() for part in parts if part.strip()]


def books(folder: Path) -> list[str]:
    """The story books; the voices' own texts are left to the voices."""
    voices = {name for names in _VOICE_FILES.values() for name in names}
    names = sorted(path.name for pattern in ("se-*.txt", "gutenberg-*.txt") for path in folder.glob(pattern))
    return [re.sub(r"\n{2,}", "\n", read(folder, name)) for name in names if name not in voices]


def voice(folder: Path, name: str) -> str:
    """The text of one voice."""
    texts = [read(folder, file) for file in _VOICE_FILES[name]]
    if name == "recipes":
        rows = [json.loads(line) for line in texts[0].splitlines() if line]
        texts = ["Recipe: {title}\nIngredients: {ingredients}\nDirections: {directions}".format(**row) for row in rows]
    return "\n\n".join(re.sub(r"\n{3,}", "\n\n", text) for text in texts)


def renamed(rng: Random, text: str) -> str:
    """The same story with names, colours, animals, foods and toys exchanged within their groups."""
    mapping: dict[str, str] = {}
    for name, group in words().lists.items():
        if name in ("swap girls", "swap boys") or (name.startswith("swap ") and rng.random() < 0.5):
            mapping |= dict(zip(group, rng.sample(group, len(group)), strict=True))
    return re.sub(r"[A-Za-z]+", lambda match: mapping.get(match.group(), match.group()), text)


def _answered(skill: Skill, rng: Random) -> str:
    item = skill.item(plain_question(rng))
    return item.prompt + item.answer


def _sum_line(rng: Random) -> str:
    question, sum_ = sum_question(rng), rng.choice(SUMS)
    phrase = re.sub(r"^(What is|How much is|Tell me) |[?.]$", "", question.text)
    return rng.choice(
        [
            f"{phrase} is {question.words[0]}.",
            f"{sum_.code} is {sum_.result}.",
            f"print({sum_.code}) shows {sum_.result}.",
            f"print({sum_.code})",
        ]
    )


def _number_line(rng: Random) -> str:
    n = rng.randrange(len(NUMBERS))
    return rng.choice(
        [f"{NUMBERS[n]} is {n}.", f"{n} is {NUMBERS[n]}.", ", ".join(NUMBERS[max(0, n - 4) : n + 1]) + "."]
    )


def _word_line(rng: Random) -> str:
    word = rng.choice(LEXICON)
    return rng.choice(
        [
            f"{word} in Spanish is {SPANISH[word]}.",
            f"{SPANISH[word]} means {word}.",
            f"{word} in big letters is {word.upper()}.",
            f"{word.upper()} in small letters is {word}.",
            f"{word} in French is {FRENCH[word]}.",
        ]
    )


def knowledge(rng: Random) -> str:
    """One line or block of what the base is taught beside stories: never a word problem or an adapter's cue."""
    share = rng.random()
    if share < 0.45:
        return _answered(SKILLS["plain"], rng)
    if share < 0.65:
        return _answered(SKILLS["french"], rng)
    if share < 0.70:
        question, answer = rng.choice(_TALK)
        return f"Question: {question}\nAnswer: {answer}"
    return rng.choice([_sum_line, _number_line, _word_line, _word_line])(rng)


def _stories(seed: int, n: int) -> list[str]:
    rng = Random(f"stories/{seed}")
    return [story(rng) for _ in range(n)]


def _knowledge(seed: int, n: int) -> list[str]:
    rng = Random(f"knowledge/{seed}")
    return [knowledge(rng) for _ in range(n)]


def generated(n_stories: int, n_knowledge: int, chunk: int = 2000) -> tuple[list[str], list[str]]:
    """Synthetic stories and knowledge lines, drawn by all cores; the result does not depend on their number."""
    with ProcessPoolExecutor() as pool:
        story_parts = list(pool.map(_stories, range(n_stories // chunk), [chunk] * (n_stories // chunk)))
        line_parts = list(pool.map(_knowledge, range(n_knowledge // chunk), [chunk] * (n_knowledge // chunk)))
    return [text for part in story_parts for text in part], [line for part in line_parts for line in part]


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """Byte-level BPE: digits split, every form of a lexicon word one token, `<|endoftext|>` (id 0) before each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    forms = [*LEXICON, *map(str.upper, LEXICON), *SPANISH.values(), *FRENCH.values()]
    cues = " ".join(
        ["", *forms, "Answer in capitals: Spanish: French: Python: backwards: twice: Question: Say: print("]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*texts, *[cues] * 600], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    return tokenizer


def stream(tokenizer: Tokenizer, texts: Sequence[str], seed: int = 0) -> np.ndarray:
    """All texts in random order as one uint16 array, each behind its `<|endoftext|>`."""
    order = np.random.default_rng(seed).permutation(len(texts))
    parts = []
    for start in range(0, len(texts), 4096):
        batch = [texts[i] for i in order[start : start + 4096]]
        parts += [np.asarray(encoding.ids, np.uint16) for encoding in tokenizer.encode_batch(batch)]
    return np.concatenate(parts)
