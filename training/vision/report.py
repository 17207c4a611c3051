"""Tables from results.json, for the card and for the end of a run.

python -m training.vision.report assets/vision
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studio.vision.transforms import TRANSFORMS
from training.vision.evaluate import SPLITS

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


def seconds_table(results: Mapping[str, Any]) -> str:
    """What each stage trained: parameters, steps, seconds on the clock."""
    lines = ["| stage | parameters trained | steps | seconds |", "| --- | --- | --- | --- |"]
    for name, fit in results["fits"].items():
        lines.append(f"| {name} | {fit['trainable'] / 1e6:.2f} M | {fit['steps']} | {fit['seconds']:.0f} |")
    return "\n".join(lines)


def contenders(results: Mapping[str, Any]) -> str:
    """LoRWeB beside both single LoRAs after equal seconds: mean over seeds and half the spread, PSNR and accuracy."""
    lines = ["| | seeds | " + " | ".join(TITLES[s] for s in SPLITS) + " |", "| --- " * (2 + len(SPLITS)) + "|"]
    for kind in ("lorweb", "single-total", "single-active"):
        runs = [
            row for name, row in results["scores"].items() if name.rpartition("-")[0] == kind and name[-1].isdigit()
        ]
        cells = [" / ".join(_spread([run[split][m] for run in runs], d) for m, d in _SHOWN) for split in SPLITS]
        lines.append(f"| {kind} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


_SHOWN = (("psnr", 2), ("accuracy", 3))


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "not run"
    half = (max(values) - min(values)) / 2
    return f"{sum(values) / len(values):.{digits}f} ± {half:.{digits}f}"


def by_family(results: Mapping[str, Any], name: str, split: str) -> str:
    """PSNR, PSNR of copying b and accuracy by family of the (first) transform."""
    mine, copy = (results["scores"][row][split]["tasks"] for row in (name, "copy b"))
    lines = ["| family | transforms | PSNR | copy b | accuracy |", "| --- | --- | --- | --- | --- |"]
    for family in dict.fromkeys(transform.family for transform in TRANSFORMS.values()):
        tasks = [task for task in mine if TRANSFORMS[task.partition("+")[0]].family == family]
        if tasks:
            psnr, copied = (sum(rows[t]["psnr"] for t in tasks) / len(tasks) for rows in (mine, copy))
            right = sum(mine[t]["accuracy"] for t in tasks) / len(tasks)
            lines.append(f"| {family} | {len(tasks)} | {psnr:.1f} | {copied:.1f} | {right:.2f} |")
    return "\n".join(lines)


def by_task(results: Mapping[str, Any], name: str, split: str) -> str:
    """One row a task: PSNR, PSNR of copying b and accuracy, best accuracy first."""
    mine, copy = (results["scores"][row][split]["tasks"] for row in (name, "copy b"))
    lines = ["| task | PSNR | copy b | accuracy |", "| --- | --- | --- | --- |"]
    for task, row in sorted(mine.items(), key=lambda item: (-item[1]["accuracy"], -item[1]["psnr"])):
        lines.append(f"| {task} | {row['psnr']:.1f} | {copy[task]['psnr']:.1f} | {row['accuracy']:.2f} |")
    return "\n".join(lines)


def steps_table(results: Mapping[str, Any]) -> str:
    """The validation set at each number of steps."""
    lines = ["| steps | PSNR | SSIM | accuracy |", "| --- | --- | --- | --- |"]
    for steps, row in results["validation"].items():
        lines.append(f"| {steps} | {row['psnr']:.2f} | {row['ssim']:.3f} | {row['accuracy']:.3f} |")
    return "\n".join(lines)


def against_seen(results: Mapping[str, Any], name: str) -> str:
    """Held-out parameters beside trained ones on the same transforms, so that the mix of tasks does not decide."""
    lines = ["| | transforms | PSNR | the same, trained parameters |", "| --- | --- | --- | --- |"]
    seen = results["scores"][name]["seen"]["tasks"]
    for split in ("between", "beyond"):
        tasks = results["scores"][name][split]["tasks"]
        held, trained = (sum(rows[task]["psnr"] for task in tasks) / len(tasks) for rows in (tasks, seen))
        lines.append(f"| {TITLES[split]} | {len(tasks)} | {held:.2f} | {trained:.2f} |")
    return "\n".join(lines)


def catalogue(results: Mapping[str, Any], at_least: float = 0.75) -> list[str]:
    """Seen transforms that the model does well: right-transform accuracy on the validation set at two steps."""
    tasks = results["validation"]["2"]["tasks"]
    return sorted(task for task, row in tasks.items() if row["accuracy"] >= at_least)


def everything(results: Mapping[str, Any]) -> str:
    """All tables, one below the other."""
    name = "lorweb"
    parts = [
        ("All rows: PSNR dB / SSIM / perceptual distance / right-transform accuracy", table(results)),
        ("Equal training time: mean over seeds ± half the spread, PSNR / accuracy", contenders(results)),
        ("Steps, on the validation set", steps_table(results)),
        ("Held-out parameters", against_seen(results, name)),
        *((f"{TITLES[split]} by family", by_family(results, name, split)) for split in SPLITS),
        *((f"{TITLES[split]} by task", by_task(results, name, split)) for split in ("seen", "transform", "pair")),
        ("Training", seconds_table(results)),
        ("Catalogue", ", ".join(catalogue(results))),
    ]
    return "\n\n".join(f"**{title}**\n\n{body}" for title, body in parts)


if __name__ == "__main__":
    print(everything(json.loads((Path(sys.argv[1]) / "results.json").read_text(encoding="utf-8"))))
