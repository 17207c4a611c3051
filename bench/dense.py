"""What TIES costs on large modules: in our row tiles, and as PEFT's `ties_svd`. `python -m bench.dense`

Four random adapters of rank 16, density 0.5, result of rank 64, one thread, each measurement in a process of its own so
that its peak memory is its own. `extra` is what the process grew by after the factors were there. PEFT's side calls the
functions that `ties_svd` calls (`peft.utils.merge_utils.ties`, then `torch.linalg.svd` of the dense delta) with full
matrices off, which is faster than its default. Writes bench/results/dense.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from time import process_time
from typing import Any

import torch
from peft.utils.merge_utils import ties as peft_ties

from bench.synthetic import machine, peak_memory
from studio.core.linalg import Pair
from studio.merging import method_by_id

RESULTS = Path(__file__).parent / "results" / "dense.json"
SOURCES, RANK = 4, 16
SHAPES = ((4096, 4096), (14336, 4096))


def pairs_of(d_out: int, d_in: int) -> list[Pair]:
    """The four sources."""
    draw = torch.Generator().manual_seed(0)
    return [
        Pair(torch.randn(1, RANK, d_in, generator=draw), torch.randn(1, d_out, RANK, generator=draw))
        for _ in range(SOURCES)
    ]


def ours(d_out: int, d_in: int) -> dict[str, float]:
    """The studio's TIES with PEFT's conventions."""
    pairs = pairs_of(d_out, d_in)
    ties = method_by_id("ties")
    before, started = peak_memory(), process_time()
    merged = ties.run(pairs, torch.ones(1, SOURCES), **ties.check({"election": "peft"}))
    spent = {"cpu_seconds": process_time() - started, "extra_bytes": peak_memory() - before}
    assert merged.kept is not None
    return {**spent, "kept": float(merged.kept)}


def peft(d_out: int, d_in: int, *, with_svd: bool) -> dict[str, float]:
    """PEFT's functions on the same sources; without the SVD only the elementwise part."""
    pairs = pairs_of(d_out, d_in)
    before, started = peak_memory(), process_time()
    merged = peft_ties([pair.delta()[0] for pair in pairs], torch.ones(SOURCES), 0.5)
    spent = {"elementwise_cpu_seconds": process_time() - started}
    if with_svd:
        _, s, _ = torch.linalg.svd(merged, full_matrices=False)
        spent["kept"] = float(s[: SOURCES * RANK].square().sum() / s.square().sum())
        spent["cpu_seconds"] = process_time() - started
    return {**spent, "extra_bytes": peak_memory() - before}


def apart(who: str, shape: tuple[int, int]) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "bench.dense", who, *map(str, shape)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    print(who, *shape, found, flush=True)
    measured: dict[str, float] = json.loads(found)
    return measured


def main() -> None:
    """Measure everything, or the one thing that a process of its own is for."""
    torch.set_num_threads(1)
    if len(sys.argv) == 4:
        who, d_out, d_in = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
        work = {"ours": ours, "peft": peft}[who]
        options = {} if who == "ours" else {"with_svd": (d_out, d_in) == SHAPES[0]}
        print(json.dumps(work(d_out, d_in, **options)))
        return
    rows: list[dict[str, Any]] = [
        {"module": shape, "ours": apart("ours", shape), "peft": apart("peft", shape)} for shape in SHAPES
    ]
    rows[0]["ratio"] = rows[0]["peft"]["cpu_seconds"] / rows[0]["ours"]["cpu_seconds"]
    RESULTS.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
