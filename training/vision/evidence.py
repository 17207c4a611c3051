"""LoRWeB beside both single LoRAs, split by split, from results.json: writes docs/explanation/evidence-vision.md.

python -m training.vision.evidence
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.vision.pipeline import EMBEDDED
from training.vision.evaluate import SPLITS
from training.vision.report import TITLES, contenders

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "evidence-vision.md"
_TOTAL = "single-total"
_LONG = {"lorweb": "lorweb", "single-total": "single-main"}

_PAGE = """# Evidence: a LoRWeB basis beside single LoRAs

Written by `python -m training.vision.evidence` from `assets/vision/results.json`; a test holds it to that file.

Three ways to adapt one frozen editor to analogies, each trained for {seconds} s on the same data from the same start,
with {seeds} training seeds: a basis of {adapters} LoRAs of rank {rank} that the example pair mixes (LoRWeB), one LoRA
of equal total rank ({total}), and one of equal active rank ({rank}). Held out: parameters between and beyond the
trained ones, whole transforms, and ordered pairs.

PSNR in dB / right-transform accuracy, mean over seeds ± half their distance:

{contenders}

LoRWeB minus the single LoRA of equal total rank, by training seed:

{differences}

What was trained:

{fits}

{headline}

## At the length of the shipped run

LoRWeB and the single LoRA of equal total rank, both of seed 0 and trained on for {more:.0f} s, {long:.0f} s in all:

{longer}

On seen transforms LoRWeB is ahead by {gap:.2f} dB, after {seconds} s it was {early:.2f} dB; {unseen}.

The data hold, besides transforms and pairs, edits of a part of the picture; they came in after an earlier model had
failed at one of the unseen transforms, and none is near one ([the card](../../assets/vision/README.md#training)).

## Rates

Tried for 30 s each on a smaller bank and an earlier base, PSNR on the validation set:

{rates}

LoRWeB's basis then got {basis_rate:g}, between that and the 0.002 of earlier runs, and the single LoRAs
{single_rate:g}. Nothing above was tried.

## Not known

Other N and r; more than one seed at full length. The relation encoder and the router are LoRWeB's alone, as in the
paper. Scenes are drawn, 64 x 64. The trained single LoRA's file (7 MB) has no room among the assets, and cutting it is
no way out: of {whole} dB on fresh seen trials, rank {cut} keeps {small}. `python -m training.vision.single`
writes it, and the page's tab *Plain LoRAs* draws with it beside the basis.
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
        longer=longer(results),
        more=results["fits"]["lorweb-main"]["seconds"],
        long=results["fits"]["lorweb-0"]["seconds"] + results["fits"]["lorweb-main"]["seconds"],
        gap=results["scores"]["lorweb"]["seen"]["psnr"] - results["scores"]["single-main"]["seen"]["psnr"],
        early=_gain(results, "0", "seen", "psnr"),
        unseen=unseen(results),
        rates=rates(results),
        **_sizes(results),
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


def longer(results: Mapping[str, Any]) -> str:
    """Both at the length of the shipped run: PSNR dB and accuracy."""
    lines = ["| | " + " | ".join(TITLES[split] for split in SPLITS) + " |", "| --- " * (1 + len(SPLITS)) + "|"]
    for title, row in _LONG.items():
        scores = (results["scores"][row][split] for split in SPLITS)
        cells = [f"{score['psnr']:.2f} / {score['accuracy']:.3f}" for score in scores]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def unseen(results: Mapping[str, Any]) -> str:
    """Who is ahead in PSNR on unseen transforms after the long run, in words."""
    ours, theirs = (results["scores"][row]["transform"]["psnr"] for row in _LONG.values())
    who = "the plain LoRA is ahead" if theirs > ours else "LoRWeB is ahead"
    return f"on unseen transforms {who} by {abs(theirs - ours):.2f} dB"


def rates(results: Mapping[str, Any]) -> str:
    """The rates that were tried."""
    lines = ["| | rate | validation PSNR |", "| --- | --- | --- |"]
    for name, title in (("basis_rate", "lorweb"), ("single_rate", _TOTAL)):
        for rate, psnr in sorted(results["tuned"][name].items()):
            lines.append(f"| {title} | {float(rate):g} | {psnr:.2f} |")
    return "\n".join(lines)


def _sizes(results: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes and rates of the run, and what cutting the single LoRA costs."""
    settings = results["settings"]
    small, whole = sorted(results["single"], key=int)
    seen = {size: f"{results['single'][size]['seen']['psnr']:.1f}" for size in (small, whole)}
    named = {name: settings[name] for name in ("adapters", "rank", "basis_rate", "single_rate")}
    total = settings["adapters"] * settings["rank"]
    return {**named, "total": total, "whole": seen[whole], "small": seen[small], "cut": small}


def _seeds(results: Mapping[str, Any]) -> list[str]:
    return sorted(name.rpartition("-")[2] for name in results["scores"] if name.startswith("single-total-"))


def _gain(results: Mapping[str, Any], seed: str, split: str, measure: str) -> float:
    ours, theirs = (results["scores"][f"{kind}-{seed}"][split][measure] for kind in ("lorweb", _TOTAL))
    return float(ours - theirs)


if __name__ == "__main__":
    PAGE.write_text(page(json.loads((EMBEDDED / "results.json").read_text(encoding="utf-8"))), encoding="utf-8")
