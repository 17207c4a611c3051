"""The evidence on modalities, out of bench/results: `python -m bench.modality_page`. Nothing is measured here."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explanation" / "evidence-modality.md"
MIXTURE = ROOT / "assets" / "mixture" / "results.json"
PHI4 = ROOT / "bench" / "results" / "phi4.json"
COLUMNS = ("none", "vision", "speech", "sum", "average", "ties", "rule")
MODES = ("text", "image", "audio", "image+audio")
WORKS = {
    "open": "open both out of the checkpoint: headers",
    "views": "norms, energy, overlap and cosines of all 128 modules",
    "split": "split the fused projections",
    "extract": "extract both to PEFT folders, read back and compared",
    "reopen": "open both from those folders, compare a module's update",
    "merge": "merge both by `cat`, with the report",
}


def page(mixture: dict[str, Any], phi4: dict[str, Any]) -> str:
    """The whole page."""
    parts = [
        "# Evidence: adapters by modality",
        _prose(
            """Written by `python -m bench.modality_page` from `assets/mixture/results.json` (`python -m
            bench.modality`) and `bench/results/phi4.json` (`python -m bench.phi4`); a test fails where the page
            and the files differ. What the words mean: [Adapters by modality](../reference/modality.md); the model: [its
            card](../../assets/mixture/README.md)."""
        ),
        "## The matrix",
        *_matrix(mixture),
        "## Does a learned router find the rule again?",
        *_routers(mixture),
        "## Text is untouched",
        _invariance(mixture),
        "## Phi-4's adapters at their real shapes",
        *_phi4(phi4),
    ]
    return "\n\n".join(parts) + "\n"


def _matrix(found: dict[str, Any]) -> list[str]:
    seeds = found["seeds"]
    rows = []
    for mode in MODES:
        cells = [_percent([seed["matrix"][mode][column] for seed in seeds]) for column in COLUMNS]
        cells.append(_percent([_mean(router["accuracy"][mode] for router in seed["routers"]) for seed in seeds]))
        rows.append([mode, *cells])
    head = ["input", "base alone", "vision", "speech", "sum", "average", "TIES", "**the rule**", "ReMix, k = 1"]
    questions = [
        f"{name} {_percent([seed['image_questions'][name] for seed in seeds])}" for name in seeds[0]["image_questions"]
    ]
    return [
        _prose(
            f"""Exactly right answers in %, {found["examples"]} questions a row drawn apart from all training,
            greedy. A cell has a number for each training seed: {_listed(seeds)}; the first ships. ReMix is the
            mean of {len(seeds[0]["routers"])} router seeds for each."""
        ),
        _table(head, rows),
        _prose(
            f"""*sum*, *average* and *TIES* merge both adapters (weights 1 and 1, ½ and ½, 1 and 1 at density ½):
            the reference never does so. Pictures by kind of question, under the vision adapter:
            {"; ".join(questions)}."""
        ),
    ]


def _routers(found: dict[str, Any]) -> list[str]:
    rows = []
    for seed in found["seeds"]:
        for router in seed["routers"]:
            cells = [f"{100 * router['as_the_rule'][mode]:.1f}" for mode in MODES]
            picks = "; ".join(f"{mode}: {_picks(router['picks'][mode])}" for mode in MODES)
            rows.append(
                [str(seed["training_seed"]), str(router["seed"]), *cells, picks, f"{router['cpu_seconds']:.1f}"]
            )
    return [
        _prose(
            f"""ReMix with k = 1 over base alone, vision and speech, {found["router_training"]} training and
            {found["router_validation"]} validation examples a mode. It reads the mean of the decoder's input
            and learns from losses, never from modes. Share of the test inputs in % where it picks what the rule
            picks:"""
        ),
        _table(["training seed", "router seed", *MODES, "picks", "CPU s"], rows),
    ]


def _invariance(found: dict[str, Any]) -> str:
    equal = sum(seed["invariance"]["equal"] for seed in found["seeds"])
    total = sum(seed["invariance"]["prompts"] for seed in found["seeds"])
    return _prose(
        f"""Logits after {total} prompts of text alone, under the rule, beside the base loaded without any adapter:
        **{equal} of {total} equal bit for bit**. The same holds on transformers' own
        `Phi4MultimodalForCausalLM` with a tiny random config (`tests/unit/test_modality.py`)."""
    )


def _phi4(found: dict[str, Any]) -> list[str]:
    rows = []
    for work, title in WORKS.items():
        spent = found[work]
        memory = f"{spent['extra_bytes'] / 2**20:.0f} MiB"
        rows.append([title, f"{spent['seconds']:.1f}", f"{spent['cpu_seconds']:.1f}", memory])
    vision, speech = found["extract"]["bytes"]
    views, machine = found["views"], found["machine"]
    return [
        _prose(
            f"""A synthetic checkpoint with the public one's names and shapes ({found["checkpoint_bytes"] / 1e9:.1f}
            GB, three shards, 32 layers, 512 bfloat16 LoRA tensors of ranks 256 and 320, random values; base
            weights are holes that nothing reads). Memory is what the process grew by. Extracted: {vision:,} and
            {speech:,} bytes; the largest difference of the compared update is
            {found["reopen"]["difference"]:g}."""
        ),
        _table(["", "seconds", "CPU s", "memory"], rows),
        _prose(
            f"""{machine["cores"]} cores, {machine["threads"]} thread, load {machine["load"]} when it began: the
            machine was shared. With random values the overlap of outputs is {views["outputs_over_chance"]:.2f}
            times chance, of inputs {views["inputs_over_chance"]:.2f}, the cosine {views["cosine"]:+.4f}, as it
            must be. The real weights were not at hand: what they share is for those who have them to read, in
            the room *Modalities*."""
        ),
    ]


def _prose(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(values: Sequence[float]) -> str:
    return " / ".join(f"{100 * value:.1f}" for value in values)


def _listed(seeds: Sequence[dict[str, Any]]) -> str:
    return " / ".join(str(seed["training_seed"]) for seed in seeds)


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _picks(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def main() -> None:
    """Write the page."""
    mixture, phi4 = (json.loads(path.read_text()) for path in (MIXTURE, PHI4))
    PAGE.write_text(page(mixture, phi4), encoding="utf-8")


if __name__ == "__main__":
    main()
