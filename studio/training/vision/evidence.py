"""LoRWeB beside both single LoRAs, split by split, from results.json: writes docs/evidence-vision.md.

python -m studio.training.vision.evidence
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.training.vision.evaluate import SPLITS
from studio.training.vision.report import TITLES, contenders
from studio.vision.pipeline import EMBEDDED

PAGE = Path(__file__).resolve().parents[3] / "docs" / "evidence-vision.md"
_TOTAL = "single-total"

_PAGE = """# Evidence: a LoRWeB basis beside single LoRAs

Written by `python -m studio.training.vision.evidence` from `assets/vision/results.json`; a test holds it to that file.

Three ways to adapt one frozen editor to analogies, each trained for {seconds} s on the same data from the same start,
with {seeds} training seeds: a basis of 32 LoRAs of rank 4 that the example pair mixes (LoRWeB), one LoRA of equal total
rank (128), and one of equal active rank (4). Held out: parameters between and beyond the trained ones, whole
transforms, and ordered pairs.

PSNR in dB / right-transform accuracy, mean over seeds ± half their distance:

{contenders}

LoRWeB minus the single LoRA of equal total rank, by training seed:

{differences}

What was trained:

{fits}

{headline}

The shipped basis went on from seed 0 to {long:.0f} s, and keeps {kept} of its {whole} adapters a layer: on the same
fresh trials {cost} dB on seen transforms ([docs/embedded-vision.md](embedded-vision.md)).

Not known: single LoRAs at the length of the shipped run ({long:.0f} s), and at a tuned learning rate; other N and r.
The relation encoder and the router are LoRWeB's alone, as in the paper. Scenes are drawn, 64 x 64. The single LoRAs'
weights are not shipped: the page's tab *Plain LoRAs* shows the base alone, one fixed mix for every edit, and one
analogy cut to a small rank.
"""


def page(results: Mapping[str, Any]) -> str:
    """The page from what a training run measured."""
    seeds = _seeds(results)
    runs = [f"{kind}-{seed}" for kind in ("lorweb", _TOTAL) for seed in seeds]
    seconds = sorted({round(results["fits"][run]["seconds"]) for run in runs})
    return _PAGE.format(
        seconds=" to ".join(map(str, seconds)),
        seeds=len(seeds),
        contenders=contenders(results),
        differences=differences(results),
        fits=fits(results),
        headline=headline(results),
        **_trimmed(results),
        long=results["fits"]["lorweb-0"]["seconds"] + results["fits"]["lorweb-main"]["seconds"],
    )


def differences(results: Mapping[str, Any]) -> str:
    """One row a seed: PSNR dB and accuracy of LoRWeB less those of the single LoRA of equal total rank."""
    lines = ["| seed | " + " | ".join(TITLES[split] for split in SPLITS) + " |", "| --- " * (1 + len(SPLITS)) + "|"]
    for seed in _seeds(results):
        gains = ([_gain(results, seed, split, measure) for measure in ("psnr", "accuracy")] for split in SPLITS)
        cells = [f"{psnr:+.2f} / {accuracy:+.3f}" for psnr, accuracy in gains]
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fits(results: Mapping[str, Any]) -> str:
    """Parameters, steps and seconds of every contender."""
    lines = ["| | seed | parameters trained | steps | seconds |", "| --- | --- | --- | --- | --- |"]
    for kind in ("lorweb", _TOTAL, "single-active"):
        for seed in _seeds(results):
            fit = results["fits"][f"{kind}-{seed}"]
            lines.append(
                f"| {kind} | {seed} | {fit['trainable'] / 1e6:.2f} M | {fit['steps']} | {fit['seconds']:.0f} |"
            )
    return "\n".join(lines)


def headline(results: Mapping[str, Any]) -> str:
    """Where LoRWeB is ahead of the single LoRA of equal total rank in PSNR with every seed, and where not."""
    ahead = [s for s in SPLITS if all(_gain(results, seed, s, "psnr") > 0 for seed in _seeds(results))]
    rest = [TITLES[s] for s in SPLITS if s not in ahead]
    won = f"With every seed LoRWeB is ahead in PSNR on {', '.join(TITLES[s] for s in ahead)}"
    return f"**{won}; not on {', '.join(rest)}.**" if rest else f"**{won}.**"


def _trimmed(results: Mapping[str, Any]) -> dict[str, Any]:
    """How many adapters are shipped of how many trained, and what leaving out the rest costs."""
    whole, kept = sorted(results["trimmed"], key=int, reverse=True)
    before, after = (results["trimmed"][size]["seen"]["psnr"] for size in (whole, kept))
    return {"whole": whole, "kept": kept, "cost": f"{after:.1f} for {before:.1f}"}


def _seeds(results: Mapping[str, Any]) -> list[str]:
    return sorted(name.rpartition("-")[2] for name in results["scores"] if name.startswith("single-total-"))


def _gain(results: Mapping[str, Any], seed: str, split: str, measure: str) -> float:
    ours, theirs = (results["scores"][f"{kind}-{seed}"][split][measure] for kind in ("lorweb", _TOTAL))
    return float(ours - theirs)


if __name__ == "__main__":
    PAGE.write_text(page(json.loads((EMBEDDED / "results.json").read_text(encoding="utf-8"))), encoding="utf-8")
