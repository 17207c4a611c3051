"""The modality matrix of the embedded mixture: what is asked by what answers. `python -m bench.modality FOLDER...`

Rows are the four input modes, columns the base alone, each adapter, both merged in three ways, the rule, and a ReMix
router with k = 1 that learns from losses alone. A cell is the share of exactly right answers. Each folder is one
training seed; without folders, the shipped one. Writes assets/mixture/results.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from bench.synthetic import machine
from studio.core.data import assets
from studio.mixture.merged import MERGES, add_merges
from studio.mixture.model import ADAPTERS, BASE, EMBEDDED, Mixture, open_mixture
from studio.mixture.routed import CHOICES, Seen, chosen, train_router
from studio.mixture.world import IMAGE_QUESTIONS, Example, examples
from studio.routing.modality import MODES, Inputs, ModalityRouter
from studio.routing.train import Settings
from studio.text.bases import open_base

RESULTS = assets("mixture", "results.json")
TEST_SEED, ROUTER_SEEDS = 1, (0, 1, 2)
TRAIN, VALID = 120, 40  # examples of each mode for the router, of other seeds than the test's
NONE = "none"
Right = dict[str, dict[str, np.ndarray[Any, np.dtype[np.bool_]]]]


def right_answers(mixture: Mixture, asked: Mapping[str, Sequence[Example]]) -> Right:
    """Which answers are exactly right, by mode and column."""
    columns = {NONE: None, **{name: name for name in (*ADAPTERS, *MERGES)}}
    return {
        mode: {column: _right(mixture, found, adapter) for column, adapter in columns.items()}
        for mode, found in asked.items()
    }


def _right(mixture: Mixture, asked: Sequence[Example], adapter: str | None) -> np.ndarray[Any, np.dtype[np.bool_]]:
    said = [text for at in range(0, len(asked), 50) for text in mixture.answer(asked[at : at + 50], adapter)]
    return np.array([text.strip() == example.answer.strip() for text, example in zip(said, asked, strict=True)])


def routers(mixture: Mixture, asked: Mapping[str, Sequence[Example]], right: Right) -> list[dict[str, Any]]:
    """ReMix routers of several seeds: what they pick in each mode, how often as the rule does, how right that is."""
    training = [example for mode in MODES for example in examples(mode, TRAIN + VALID, 3)]
    seen, tests = Seen.of(mixture, training), {mode: mixture.features(found) for mode, found in asked.items()}
    row = torch.arange(len(training))
    rows = row[row % (TRAIN + VALID) < TRAIN], row[row % (TRAIN + VALID) >= TRAIN]
    return [_router(seen, rows, seed, tests, right) for seed in ROUTER_SEEDS]


def _router(
    seen: Seen,
    rows: tuple[torch.Tensor, torch.Tensor],
    seed: int,
    tests: Mapping[str, torch.Tensor],
    right: Right,
) -> dict[str, Any]:
    settings = Settings()
    settings = replace(settings, schedule=replace(settings.schedule, seed=seed))
    spent = process_time()
    router = train_router(seen, rows, settings).router
    spent = process_time() - spent
    found: dict[str, Any] = {
        "seed": seed,
        "cpu_seconds": round(spent, 2),
        "accuracy": {},
        "as_the_rule": {},
        "picks": {},
    }
    for mode, features in tests.items():
        picks, rule = chosen(router, features), ModalityRouter().decide(Inputs.of(mode)).adapter
        answered = [right[mode][pick or NONE][index] for index, pick in enumerate(picks)]
        found["accuracy"][mode] = float(np.mean(answered))
        found["as_the_rule"][mode] = float(np.mean([pick == rule for pick in picks]))
        found["picks"][mode] = {name: picks.count(pick) for name, pick in zip(CHOICES, (None, *ADAPTERS), strict=True)}
    return found


def invariance(mixture: Mixture, asked: Sequence[Example]) -> dict[str, Any]:
    """Whether the logits of text alone, routed by the rule, are those of the base without any adapter, bit for bit."""
    base, rows = open_base(BASE).model.to("cpu", torch.float32), mixture.prompts(asked)
    adapter = ModalityRouter().decide(Inputs()).adapter
    equal = 0
    for row in rows:
        with torch.inference_mode():
            alone = base(input_ids=torch.tensor([row])).logits[0, -1]
        equal += int(torch.equal(mixture.next_logits(row, adapter), alone))
    return {"prompts": len(rows), "equal": equal}


def measured(folder: Path, count: int) -> dict[str, Any]:
    """Everything about one folder."""
    wall, spent = perf_counter(), process_time()
    mixture = open_mixture(folder)
    add_merges(mixture, folder)
    asked = {mode: examples(mode, count, TEST_SEED) for mode in MODES}
    right = right_answers(mixture, asked)
    rule = {mode: ModalityRouter().decide(Inputs.of(mode)).adapter or NONE for mode in MODES}
    matrix = {mode: {column: float(hits.mean()) for column, hits in found.items()} for mode, found in right.items()}
    for mode in MODES:
        matrix[mode]["rule"] = matrix[mode][rule[mode]]
    questions = {text: name for name, text in IMAGE_QUESTIONS.items()}
    names = [next(name for text, name in questions.items() if text in example.prompt) for example in asked["image"]]
    return {
        "training_seed": json.loads((folder / "training.json").read_text())["seed"],
        "matrix": matrix,
        "image_questions": {
            name: float(right["image"]["vision"][[own == name for own in names]].mean()) for name in IMAGE_QUESTIONS
        },
        "routers": routers(mixture, asked, right),
        "invariance": invariance(mixture, asked["text"]),
        "seconds": round(perf_counter() - wall, 1),
        "cpu_seconds": round(process_time() - spent, 1),
    }


def main() -> None:
    """Measure the folders and write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.modality", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[EMBEDDED], metavar="FOLDER")
    parser.add_argument("--examples", type=int, default=200, help="test examples of each mode")
    given = parser.parse_args()
    found = [measured(folder, given.examples) for folder in given.folders]
    about = {"machine": machine(), "examples": given.examples, "router_training": TRAIN, "router_validation": VALID}
    RESULTS.write_text(json.dumps({**about, "seeds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
