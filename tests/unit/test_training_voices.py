"""The classifier of voices: separate text for training and test, and what it said is what the results and card hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest

from studio.core.errors import MissingFile
from studio.evaluation.tasks import BadTask, named_task, voice_task, voices
from training.text.corpus import SHIPPED_VOICES
from training.text.voices import accuracy, evenly, passages, trained

ASSETS = Path(__file__).parents[2] / "assets" / "text"


def drawn(words: str, seed: int) -> str:
    """A long text of few words, in an order of its own."""
    rng = Random(seed)
    return " ".join(rng.choice(words.split()) for _ in range(6000))


def test_passages_of_two_parts_share_no_word() -> None:
    text = " ".join(str(i) for i in range(5000))
    early, late = passages(text, 0, 0.9), passages(text, 0.95, 1)
    assert not {*" ".join(early).split()} & {*" ".join(late).split()}
    assert all(300 <= len(piece) < 320 for piece in early)
    assert evenly(early, 7)[0] == early[0]
    assert len(evenly(early, 7)) == 7


def test_the_classifier_knows_voices_on_text_it_never_saw() -> None:
    texts = {"king": drawn("thou art my lord and thee", 0), "cook": drawn("stir the flour with one egg", 1)}
    classifier = trained(texts)
    found = accuracy(classifier, texts)
    assert {name: row["percent"] for name, row in found.items()} == {"king": 100, "cook": 100}
    assert all(row["passages"] >= 3 for row in found.values())
    swapped = accuracy(classifier, {"king": texts["cook"], "cook": texts["king"]})
    assert {row["percent"] for row in swapped.values()} == {0}


def test_the_card_says_what_was_measured() -> None:
    found = json.loads((ASSETS / "results.json").read_text())["voice_classifier"]
    card = (ASSETS / "README.md").read_text()
    for name in SHIPPED_VOICES:
        held = found["accuracy_held_out"][name]["percent"]
        openings = found["given_to_percent"]["story openings"]
        own = found["given_to_percent"][f"{name}'s own prompt"]
        cells = [held, openings["base"][name], openings[name][name], own["base"][name], own[name][name]]
        row = rf"\| {name} \| " + r" \| ".join(f"{round(value)} %" for value in cells) + r" \|"
        assert re.search(row, card), row


def test_held_out_voices_are_tasks() -> None:
    assert set(voices()) == set(SHIPPED_VOICES)
    for name in SHIPPED_VOICES:
        task = named_task(name, 4)
        assert (task.kind, len(task.items)) == ("perplexity", 4)
        assert all(len(item.answer) >= 400 for item in voice_task(name).items)
    with pytest.raises(BadTask, match="voice"):
        voice_task("opera")
    with pytest.raises(MissingFile, match="recipes"):
        named_task("opera")
