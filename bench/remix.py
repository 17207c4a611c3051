"""Routers beside each other: the collapse simulation, the reference toy, the embedded skills. `python -m bench.remix`

Parts can be run alone (`--part collapse toy readings rates text`); each is kept in bench/results/remix.json as it is
done, and docs/explanation/evidence-routing.md is written from that file. `text` takes the rates that `rates` found.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from time import process_time
from typing import Any

import torch

from bench.remix_kept import figures, keep, kept
from bench.remix_page import PAGE, page
from bench.remix_text import rates_part, text_part
from bench.remix_toy import ROUTERS, readings
from studio.core.files import write_atomic
from studio.routing.ess import bound_probability, collapse
from studio.routing.toy import make_toy, run_toy

TOY_SEEDS = range(3)
NORMS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def main() -> None:
    """Measure the parts, keep them, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument(
        "--row", action="append", default=[], help="of text or toy: only these rows (of toy, `frozen ReMix M=2`)"
    )
    parser.add_argument("--page", action="store_true", help="write the page alone, from the figures that are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part in () if options.page else options.part:
        PARTS[part](options.row) if options.row else PARTS[part]()
    found = kept()
    write_atomic(PAGE, page(found).encode())
    print(PAGE.read_text())


# -- collapse ----------------------------------------------------------------------------------------------------------


def collapse_part() -> None:
    """Fresh softmax routers over 8 adapters, by logit scale."""
    rows = {}
    for norm in NORMS:
        found = collapse(norm, 8, draws=1_000_000)
        rows[f"{norm:g}"] = {
            "at_most_2": found.share_below(2),
            "mean": found.mean,
            "bound_2": bound_probability(norm),
            "bound_3": bound_probability(norm, 3),
        }
    keep(collapse=rows)


# -- the reference toy -------------------------------------------------------------------------------------------------


def toy_part(only: Sequence[str] = ()) -> None:
    """The toy with every router, experts frozen and trained."""
    for setting in ("frozen", "trained"):
        for name, (kind, samples) in ROUTERS.items():
            if not only or f"{setting} {name}" in only:
                runs = [toy_run(kind, samples, setting == "frozen", seed) for seed in TOY_SEEDS]
                held = kept().get("toy", {})
                keep(toy=held | {setting: held.get(setting, {}) | {name: runs}})
                print(setting, name, [run["loss"] for run in runs], flush=True)


def readings_part(only: Sequence[str] = ()) -> None:
    """Frozen experts over ten seeds, with what the text leaves open read in several ways."""
    for reading, router, runs in readings():
        held = kept().get("readings", {})
        keep(readings=held | {reading: held.get(reading, {}) | {router: runs}})
        print(reading, router, [round(run["loss"], 4) for run in runs], flush=True)


def toy_run(kind: str, samples: int, frozen: bool, seed: int) -> dict[str, Any]:
    """One run on the toy."""
    started = process_time()
    found = run_toy(make_toy(seed), kind, samples=samples, frozen=frozen, seed=seed).test
    return figures(found) | {"cpu_seconds": process_time() - started}


PARTS: dict[str, Callable[..., None]] = {
    "collapse": collapse_part,
    "toy": toy_part,
    "readings": readings_part,
    "rates": rates_part,
    "text": text_part,
}

if __name__ == "__main__":
    main()
