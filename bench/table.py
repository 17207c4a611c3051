"""The figures of bench/results as one Markdown table: `python -m bench.table`; `--readme` puts it into README.md.

Nothing is measured here. A row is a claim with its figures and the command that measures them again; what has no result
file says so. Ratios are of processor seconds of one thread unless the row says otherwise.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from studio.core.files import write_atomic
from tools.marks import between

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
MARK = "speed"
Found = Mapping[str, Any]


class Row(NamedTuple):
    """One line: the work, ours, what it is beside, how many times faster or dearer."""

    work: str
    ours: str
    beside: str
    ratio: str


def svd(found: Found) -> list[Row]:
    """Ours and PEFT's svd at the shapes of Llama 3.1 8B."""
    whole, (_, q) = found["ours"], found["modules"]
    least = found["peft_reduced_cpu_seconds_at_least"]
    return [
        Row(
            f"`svd`, 4 × r16 to r16, all {whole['modules']} modules of Llama 3.1 8B",
            f"{_time(whole['cpu_seconds'])}, {_size(whole['extra_bytes'])} more memory",
            f"PEFT `svd`, thin: at least {_time(least)} (estimated)",
            f"≥ {found['peft_reduced_cpu_ratio_at_least']:,.0f} ×",
        ),
        Row(
            f"the same, one module {q['shape'][0]} × {q['shape'][1]}",
            _time(q["ours"]["cpu_seconds"]),
            f"PEFT `svd`: {_time(q['peft']['cpu_seconds'])}; thin: {_time(q['peft_reduced']['cpu_seconds'])}",
            f"{q['peft_cpu_ratio']:,.0f} ×; {q['peft_reduced_cpu_ratio']:,.0f} ×",
        ),
    ]


def cat(found: Found) -> list[Row]:
    """cat beside a copy."""
    work = f"`cat`, {found['sources']} × r{found['rank']}, {found['modules']} modules, {_size(found['bytes'])}"
    copied = f"copying the same bytes: {_time(found['copy_seconds'])}"
    return [
        Row(f"{work}: open and merge", _time(found["compose_seconds"]), copied, _dearer(found["compose_ratio"])),
        Row(
            "the same with export, sync, reading back, comparing",
            _time(found["compose_and_export_seconds"]),
            copied,
            _dearer(found["export_ratio"]),
        ),
    ]


def lego_speed(found: Found) -> list[Row]:
    """LEGO's clustering beside scikit-learn's."""
    ours = (found["gram_ms_per_module"] + found["clusters_ms_per_module"]) / 1e3
    merge = found["merge"]
    return [
        Row(
            f"`lego` k = 16, clusters of one module, inertia {found['inertia_ratio']:.3f} of theirs",
            _time(ours),
            f"scikit-learn KMeans: {_time(found['sklearn_ms_per_module'] / 1e3)}",
            f"{found['ratio_with_gram']:.0f} ×; {found['ratio_gram_cached']:.0f} × for a new k",
        ),
        Row(
            f"`lego` k = 16, all {found['modules']} modules",
            f"{_time(merge['cpu_seconds'])}, {_size(merge['extra_bytes'])} more memory",
            "",
            "",
        ),
    ]


def knots(found: Found) -> list[Row]:
    """The low-rank routes of KnOTS and core space beside their dense forms."""
    shape = " × ".join(map(str, found["module"]))
    return [
        Row(
            f"`{id}` on {shape}, results {found[id]['difference']:.0e} apart",
            _time(found[id]["cpu_seconds"]),
            f"its dense form: {_time(found[id]['dense_cpu_seconds'])}",
            f"{found[id]['ratio']:,.0f} ×",
        )
        for id in ("knots", "core")
    ]


def dense(found: Found) -> list[Row]:
    """What an elementwise method costs."""
    rows = []
    for row in found["rows"]:
        theirs, ours = row["peft"], row["ours"]
        seconds = theirs.get("cpu_seconds")
        beside = (
            f"PEFT's TIES alone: {_time(theirs['elementwise_cpu_seconds'])}"
            if seconds is None
            else f"PEFT's TIES and thin SVD: {_time(seconds)}"
        )
        rows.append(
            Row(
                f"`ties` on one module {' × '.join(map(str, row['module']))}, dense by nature",
                f"{_time(ours['cpu_seconds'])}, {_size(ours['extra_bytes'])} more memory",
                f"{beside}, {_size(theirs['extra_bytes'])}",
                "" if seconds is None else f"{row['ratio']:.0f} ×",
            )
        )
    return rows


def headers(found: Found) -> list[Row]:
    """A hundred adapters judged."""
    work = (
        f"{found['adapters']} adapters of {found['modules'] // found['adapters']} modules opened and checked together"
    )
    return [Row(work, _time(found["cpu_seconds"]), "", "")]


TABLES: Mapping[str, Callable[[Found], list[Row]]] = {
    "svd": svd,
    "cat": cat,
    "lego_speed": lego_speed,
    "knots": knots,
    "dense": dense,
    "headers": headers,
}


def table() -> str:
    """Every row that there are figures for, as Markdown; then how loaded the machine was, and what is not measured."""
    lines = ["| work | LoRA Loom | beside | times |", "| --- | --- | --- | --- |"]
    loads: dict[str, float] = {}
    missing = [name for name in TABLES if not (RESULTS / f"{name}.json").is_file()]
    for name, rows in TABLES.items():
        if name not in missing:
            found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
            loads[name] = found["machine"]["load"]
            lines += [f"| {' | '.join(row)} |" for row in rows(found)]
    low, high = min(loads.values()), max(loads.values())
    said = (
        f"Processor seconds of one thread (`cat`: by the clock), on 2 cores busy with other work (load {low:g} to "
        f"{high:g}). `python -m bench.{{{','.join(TABLES)}}}`; costs by adapters, rank and modules: "
        f"[Merge methods](docs/reference/methods.md#what-it-costs). {_on_a_gpu()}"
    )
    gaps = f" Not measured yet: {', '.join(missing)}." if missing else ""
    return "\n".join([*lines, "", said + gaps]) + "\n"


def page(text: str) -> str:
    """The README with the table as the figures have it; raises `ValueError` where the marks are gone."""
    return between(text, MARK, table())


def _on_a_gpu() -> str:
    """The least and the most that a GPU gains, in a sentence."""
    found = json.loads((RESULTS / "gpu.json").read_text(encoding="utf-8"))
    ratios = {id: row["ratio"] for id, row in found["methods"].items()}
    least, most = min(ratios, key=lambda id: ratios[id]), max(ratios, key=lambda id: ratios[id])
    return (
        f"On a GPU ({found['gpu']}): from {ratios[least]:.1f} × (`{least}`) to {ratios[most]:.1f} × (`{most}`) as fast "
        f"as on {found['machine']['cores']} CPU cores, [by method](docs/reference/methods.md#on-a-gpu)."
    )


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1e3 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _dearer(ratio: float) -> str:
    return f"{ratio:.1f} × the copy"


if __name__ == "__main__":
    if "--readme" in sys.argv:
        write_atomic(README, page(README.read_text(encoding="utf-8")).encode())
    else:
        print(table())
