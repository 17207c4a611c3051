"""The prompts that ship with the embedded base: story openings, and one for each skill, pair and voice."""

from __future__ import annotations

from typing import Any

from studio.text.skills import COMPOSITIONS, SINGLES, SKILLS
from training.text.corpus import SHIPPED_VOICES

STORIES: tuple[tuple[str, str], ...] = (
    ("The classic start", "There once was a little girl named Lily who lived near the forest."),
    ("A boy by the sea", "In a small house near the sea, there lived a little boy named Tom."),
    ("A lonely dragon", "Once there was a dragon who lived all alone."),
    ("A fox", "The little fox lived near the forest. He had a good friend, a rabbit."),
    ("A cold night", "It was a cold night in the forest. The owl"),
    ("A sad king", "Once upon a time, there was a king."),
    ("A robot", "Far, far away, there lived a little robot named Beep. But Beep did not know what a friend was."),
    ("A brave mouse", "Once upon a time, there was a brave little mouse named Pebble."),
    (
        "Two friends and the rain",
        "One day, Mia and a boy named Ben wanted to fly a kite in the park. But then dark clouds came.",
    ),
    ("A lost hat", "One windy day, the bear could not find his hat."),
    ("The race", "One day, there was a big race in the forest."),
    ("A tiny seed", "One morning, Nora found a tiny seed."),
    ("A falling star", "One night, Leo saw a little star fall from the sky."),
    ("A letter", "One day, the hedgehog got a letter."),
    ("A birthday", "It was Grandma's birthday. But Anna had nothing to give."),
    ("Afraid of the dark", "Max was a cheerful boy from a small town. But Max was afraid of the dark."),
    (
        "A bird in the grass",
        "One morning, the rabbit saw a little bird on the ground. The bird had fallen from its nest.",
    ),
    ("A map", "One afternoon, Jack found an old map under the bed."),
    ("A new pet", "One day, Lucy got a little puppy."),
    ("The moon", "One night, the kitten could not sleep. The moon was too bright."),
)
VOICES: dict[str, tuple[str, str]] = {
    "shakespeare": ("A king speaks", "KING:\n"),
    "recipes": ("A recipe", "Recipe: Apple Cake\nIngredients:"),
    "fable": ("A fable", "A hungry Fox saw a Crow"),
    "rhyme": ("A rhyme", "Little Polly Green,\n"),
}


def shipped() -> dict[str, Any]:
    """The contents of `assets/text/prompts.json`.

    Each has a `kind` (story, skill, composition, voice), a `caption`, the `prompt`, the names of the `adapters` to
    merge for it (none for a story) and, where a program can check it, the right `answer`.
    """
    rows: list[dict[str, Any]] = [
        {"kind": "story", "caption": caption, "prompt": prompt, "adapters": [], "answer": None}
        for caption, prompt in STORIES
    ]
    for kind, names in (("skill", SINGLES), ("composition", COMPOSITIONS)):
        for name in names:
            skill, item = SKILLS[name], SKILLS[name].example
            rows.append(
                {
                    "kind": kind,
                    "caption": skill.title,
                    "prompt": item.prompt,
                    "adapters": list(skill.parts or (name,)),
                    "answer": item.answer.strip(),
                }
            )
    for name in SHIPPED_VOICES:
        caption, prompt = VOICES[name]
        rows.append({"kind": "voice", "caption": caption, "prompt": prompt, "adapters": [name], "answer": None})
    return {"format": 1, "prompts": rows}
