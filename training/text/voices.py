"""Does an adapter write in its voice? A small classifier, trained and tested on separate text, reads what it writes.

The classifier knows the two voices and plain stories by their character n-grams. It learns from the part of each text
that the adapters were trained on, and its own accuracy is measured on the last 5 %, which no adapter and no checkpoint
ever saw. Then it judges samples: from the openings of stories, which pull towards the base's own voice, and from each
voice's own prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from studio.formats import open_adapter
from studio.text.bases import TextBase, open_base
from studio.text.decoding import Decoding
from studio.text.preview import Preview, open_preview
from training.text import corpus
from training.text.prompts import STORIES, VOICES

PASSAGE, TRAINING = 300, 500
"""Characters of a passage, and passages of each voice to learn from."""
STORY = "story"
WRITTEN = Decoding(max_tokens=80, temperature=0.7, top_p=0.95)
HELD_OUT, EXCERPT = 12, 480
"""Excerpts of each voice that ship for the scoreboard, and their characters."""


def passages(text: str, low: float, high: float, size: int = PASSAGE) -> list[str]:
    """Whole words of the part of a text from share `low` to share `high`, in pieces of about `size` characters."""
    words, found, piece = text[int(low * len(text)) : int(high * len(text))].split(" "), list[str](), ""
    for word in words[1:-1]:  # the first and the last may be cut
        piece = f"{piece} {word}" if piece else word
        if len(piece) >= size:
            found.append(piece)
            piece = ""
    return found


def evenly(pieces: Sequence[str], count: int) -> list[str]:
    """At most `count` of the pieces, spread over all."""
    step = max(1, len(pieces) // count)
    return list(pieces[::step][:count])


def trained(texts: Mapping[str, str]) -> Pipeline:
    """Logistic regression on TF-IDF of character 2- to 4-grams, from the first 90 % of each text."""
    pieces = {name: evenly(passages(text, 0, 0.9), TRAINING) for name, text in texts.items()}
    found = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=2, sublinear_tf=True, lowercase=False),
        LogisticRegression(max_iter=1000, class_weight="balanced"),
    )
    labels = [name for name, own in pieces.items() for _ in own]
    return found.fit([piece for own in pieces.values() for piece in own], labels)


def accuracy(classifier: Pipeline, texts: Mapping[str, str]) -> dict[str, Any]:
    """Percent of the last 5 % of each text that is named rightly, and how many passages that were."""
    held = {name: passages(text, 0.95, 1) for name, text in texts.items()}
    return {
        name: {"percent": _share(classifier.predict(pieces), name), "passages": len(pieces)}
        for name, pieces in held.items()
    }


def _share(said: Sequence[str], name: str) -> float:
    return round(100 * sum(one == name for one in said) / max(1, len(said)), 1)


def written(preview: Preview, prompts: Sequence[str]) -> dict[str, list[str]]:
    """What base and adapters add to each prompt, by column."""
    found: dict[str, list[str]] = {name: [] for name in preview.columns(None)}
    for seed, prompt in enumerate(prompts):
        decoding = Decoding(WRITTEN.max_tokens, WRITTEN.temperature, WRITTEN.top_p, seed)
        *_, texts = preview.generate(prompt, None, decoding)
        for name, text in zip(found, texts, strict=True):
            found[name].append(text)
    return found


def judged(base: TextBase, folder: Path, texts: Mapping[str, str]) -> dict[str, Any]:
    """The classifier's accuracy, and the percent of each column's samples that it gives to each voice."""
    classifier = trained(texts)
    preview = open_preview(base, [open_adapter(folder / name) for name in corpus.SHIPPED_VOICES])
    openings = written(preview, [prompt for _, prompt in STORIES])
    samples: dict[str, Any] = {"story openings": openings}
    for name in corpus.SHIPPED_VOICES:
        own = written(preview, [VOICES[name][1]] * len(STORIES))
        samples[f"{name}'s own prompt"] = {column: own[column] for column in ("base", name)}
    shares = {
        prompts: {
            column: {name: _share(classifier.predict(pieces), name) for name in texts}
            for column, pieces in columns.items()
        }
        for prompts, columns in samples.items()
    }
    about = {"samples": len(STORIES), "tokens": WRITTEN.max_tokens, "temperature": WRITTEN.temperature}
    return {"accuracy_held_out": accuracy(classifier, texts), **about, "given_to_percent": shares}


def texts_of(folder: Path) -> dict[str, str]:
    """The voices' texts, and simple stories that nobody trained on."""
    return {name: corpus.voice(folder, name) for name in corpus.SHIPPED_VOICES} | {
        STORY: "\n\n".join(corpus.valid_stories(folder))
    }


def excerpts(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Held-out excerpts of each voice, for tasks of perplexity."""
    return {name: evenly(passages(texts[name], 0.95, 1, EXCERPT), HELD_OUT) for name in corpus.SHIPPED_VOICES}


def judge_shipped(out: Path, folder: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Judge the adapters in `out`; the figures, and the excerpts to ship beside them."""
    texts = texts_of(folder)
    return judged(open_base(str(out / "base")), out / "adapters", texts), excerpts(texts)
