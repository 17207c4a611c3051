"""The figures of bench/results as Markdown: `python -m bench.table`. Nothing is measured here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def svd(found: dict[str, Any]) -> str:
    """Ours and PEFT's svd at the shapes of Llama 3.1 8B."""
    whole = found["ours"]
    lines = [
        "| svd of 4 × rank 16 to rank 16 | LoRA Loom | PEFT, default | PEFT, reduced | ratio |",
        "|---|---|---|---|---|",
    ]
    for row in found["modules"]:
        d_out, d_in = row["shape"]
        cells = [f"{_time(row[name]['seconds'])}, {_size(row[name]['extra_bytes'])}" for name in _COLUMNS]
        ratio = f"{row['peft_ratio']:.0f} × (reduced {row['peft_reduced_ratio']:.0f} ×)"
        lines.append(f"| one module, {d_out} × {d_in} | {' | '.join(cells)} | {ratio} |")
    least, ratio = found["peft_at_least_seconds_estimated"], found["ratio_at_least_estimated"]
    lines.append(
        f"| all {whole['modules']} modules | {_time(whole['seconds'])}, {_size(whole['extra_bytes'])} | "
        f"at least {_time(least)} (estimated) | – | at least {ratio:.0f} × (estimated) |"
    )
    return "\n".join(lines) + f"\n\n{_machine(found)} Memory is what the process grew by."


def cat(found: dict[str, Any]) -> str:
    """cat beside a copy."""
    rows = (
        ("copy the four files, synced", "copy", 1.0),
        ("open and compose, with the report", "compose", found["compose_ratio"]),
        ("open, compose, export, sync, read back, compare", "compose_and_export", found["export_ratio"]),
    )
    size = f"{found['sources']} × rank {found['rank']}, {found['modules']} modules, {_size(found['bytes'])}"
    lines = [f"| cat of {size} | seconds | times the copy |", "|---|---|---|"]
    lines += [f"| {title} | {found[f'{key}_seconds']:.2f} | {ratio:.1f} |" for title, key, ratio in rows]
    return "\n".join(lines) + f"\n\n{_machine(found)}"


def compose(found: dict[str, Any]) -> str:
    """What a slider costs."""
    lines = ["| a new weight, 56 modules of rank 8 | median | processor | first call |", "|---|---|---|---|"]
    lines += [
        f"| `{work['method']}`, {work['adapters']} adapters | {work['median_ms']:.0f} ms | "
        f"{work['median_cpu_ms']:.0f} ms | {work['first_ms']:.0f} ms |"
        for work in found["works"]
    ]
    return "\n".join(lines) + f"\n\n{_machine(found)}"


_COLUMNS = ("ours", "peft", "peft_reduced")
_TABLES = {"svd": svd, "cat": cat, "compose": compose}


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1e3 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _machine(found: dict[str, Any]) -> str:
    about = found["machine"]
    return f"{about['cores']} cores, {about['threads']} threads, load {about['load']} before the start."


def main() -> None:
    """Print the table of every result that is there."""
    for name, table in _TABLES.items():
        path = RESULTS / f"{name}.json"
        text = table(json.loads(path.read_text())) if path.exists() else f"Not measured yet: `python -m bench.{name}`."
        print(f"{text}\n")


if __name__ == "__main__":
    main()
