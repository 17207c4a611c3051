"""Tables from results.json, for the card and for the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studio.training.vision.evaluate import SPLITS

TITLES = {
    "seen": "seen transforms",
    "between": "parameters between",
    "beyond": "parameters beyond",
    "transform": "unseen transforms",
    "pair": "unseen pairs",
}


def table(results: Mapping[str, Any]) -> str:
    """Every scored row by split: PSNR dB / SSIM / LPIPS-like distance / right-transform accuracy."""
    lines = ["| | " + " | ".join(TITLES[split] for split in SPLITS) + " |", "| --- " * (1 + len(SPLITS)) + "|"]
    for name, scores in results["scores"].items():
        cells = [_cell(scores[split]) if split in scores else "" for split in SPLITS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    return f"{row['psnr']:.1f} / {row['ssim']:.3f} / {row['perceptual']:.3f} / {row['accuracy']:.2f}"


def by_task(results: Mapping[str, Any], name: str, split: str) -> str:
    """One row a task: PSNR of the row `name`, of copying b, and accuracy, best accuracy first."""
    mine, copy = (results["scores"][row][split]["tasks"] for row in (name, "copy b"))
    lines = ["| task | PSNR | copy b | accuracy |", "| --- | --- | --- | --- |"]
    for task, row in sorted(mine.items(), key=lambda item: (-item[1]["accuracy"], -item[1]["psnr"])):
        lines.append(f"| {task} | {row['psnr']:.1f} | {copy[task]['psnr']:.1f} | {row['accuracy']:.2f} |")
    return "\n".join(lines)
