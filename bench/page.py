"""How long the page's server takes after a slider is let go, until the first new text, and until it answers at all.

    OMP_NUM_THREADS=1 python -m bench.page [--repeats 12] [--no-start]

Handlers are called as the page calls them, on the first preset (two embedded adapters) and with all embedded adapters
open. `slider`: the weight's handler, then merge with report and map update, which the page asks for at the same
time. `k`: the same for the number of LEGO's clusters. `first_text`: from the weight's handler to the first text of the
preview, merge included. `start`: from the start of `python app.py` to its first 200 answer. Each repeat sets a value
not seen before. `cpu` is processor time of the same rounds, which a busy machine disturbs less than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from urllib.error import URLError

from studio.recipes.presets import load_preset, preset_ids
from studio.recipes.recipe import Source
from studio.recipes.sources import EMBEDDED, embedded_paths
from studio.session.store import Settings
from studio.ui.shell.page import Page, build

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "page.json"
TARGETS_MS = {"slider": 150.0, "k": 150.0, "first_text": 300.0, "start": 10_000.0}


@dataclass(frozen=True)
class Row:
    """Milliseconds of one measure by the clock, median `cpu` of the process; `parts` are medians of its steps."""

    measure: str
    adapters: int
    target: float
    median: float
    least: float
    most: float
    cpu: float
    repeats: int
    load: float
    parts: dict[str, float]


Steps = dict[str, Callable[[], object]]


def exhausted(values: Iterable[object]) -> None:
    """Run a handler that yields to its end."""
    for _ in values:
        pass


def measured(name: str, adapters: int, repeats: int, steps_of: Callable[[int], Steps]) -> Row:
    """Time the steps of `repeats` rounds, after one to warm up."""
    rounds, busy = [], []
    for index in range(repeats + 1):
        spent, before = {}, time.process_time()
        for step, work in steps_of(index).items():
            began = time.perf_counter()
            work()
            spent[step] = (time.perf_counter() - began) * 1e3
        rounds.append(spent)
        busy.append((time.process_time() - before) * 1e3)
    totals = [sum(spent.values()) for spent in rounds[1:]]
    parts = {step: round(median(spent[step] for spent in rounds[1:]), 1) for step in rounds[0]}
    figures = [round(figure, 1) for figure in (median(totals), min(totals), max(totals), median(busy[1:]))]
    return Row(name, adapters, TARGETS_MS[name], *figures, repeats, round(os.getloadavg()[0], 1), parts)


@dataclass(frozen=True, eq=False)
class Bench:
    """One visitor of a page that is warm."""

    page: Page
    token: str
    repeats: int

    def __post_init__(self) -> None:
        self.workspace.load(load_preset(preset_ids()[0]), "preset")

    @property
    def workspace(self):  # type: ignore[no-untyped-def]
        """The visitor's workspace."""
        return self.page.shared.workspace(self.token)

    def all_adapters(self) -> None:
        """Put every embedded adapter in the workspace."""
        here = {source.path for source in self.workspace.recipe.sources}
        for path in embedded_paths():
            if path not in here:
                self.workspace.add(Source(path=path, name=path.removeprefix(EMBEDDED)))

    def rows(self) -> list[Row]:
        """Slider, k and first text for what is in the workspace."""
        count = len(self.workspace.recipe.sources)
        exhausted(self.page.compose.units.on_picture(self.token))  # units and their layout are made once for a library
        self.page.compose.mixer.on_method(self.token, "cat")
        slider = measured("slider", count, self.repeats, self.slider)
        text = measured("first_text", count, self.repeats, self.first_text)
        self.page.compose.mixer.on_method(self.token, "lego")
        return [slider, text, measured("k", count, self.repeats, self.k)]

    def weigh(self, index: int) -> object:
        """Move the first slider to a value of its own."""
        return self.page.compose.mixer.on_weight(0, self.token, round(0.5 + 0.01 * index, 2))

    def results(self) -> Steps:
        """What follows every edit: two listeners of one counter, each on a thread of the server."""
        return {"merge_report_and_map": self.listeners}

    def listeners(self) -> None:
        """Merge with report, and map, at once."""
        with ThreadPoolExecutor(2) as pool:
            merged = pool.submit(lambda: exhausted(self.page.compose.mixer.on_version(self.token)))
            moved = pool.submit(self.page.compose.units.on_version, self.token)
            merged.result()
            moved.result()

    def slider(self, index: int) -> Steps:
        """A weight."""
        return {"edit": lambda: self.weigh(index), **self.results()}

    def k(self, index: int) -> Steps:
        """The number of clusters."""
        return {"edit": lambda: self.page.compose.mixer.on_knob("lego", "k", self.token, 4 + index), **self.results()}

    def first_text(self, index: int) -> Steps:
        """A weight, then the first text of the preview."""
        return {
            "edit": lambda: self.weigh(index + self.repeats + 1),
            "merge": self.workspace.compose,
            "text": lambda: next(self.page.compose.preview.on_version(self.token)),
        }


def first_answer() -> tuple[float, float]:
    """Milliseconds from the start of the server to its first 200, by the clock and of its processor time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pause, began = threading.Event(), time.perf_counter()
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen([sys.executable, "app.py", "--port", str(port)], cwd=ROOT, stdout=log, stderr=log)
        try:
            while server.poll() is None:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5) as reply:
                        if reply.status == 200:
                            return (time.perf_counter() - began) * 1e3, cpu_of(server.pid)
                except (URLError, OSError):
                    pause.wait(0.02)
            raise RuntimeError("the server ended before it answered")
        finally:
            server.kill()
            server.wait()


def cpu_of(process: int) -> float:
    """Processor time of a process so far, in milliseconds; from /proc, so on Linux alone."""
    stat = Path(f"/proc/{process}/stat")
    if not stat.exists():
        return float("nan")
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) * 1e3 / os.sysconf("SC_CLK_TCK")


def start(repeats: int) -> Row:
    """The first answers of `repeats` servers, one after the other."""
    taken, busy = zip(*(first_answer() for _ in range(repeats)), strict=True)
    figures = [round(figure, 1) for figure in (median(taken), min(taken), max(taken), median(busy))]
    return Row("start", 0, TARGETS_MS["start"], *figures, repeats, round(os.getloadavg()[0], 1), {})


def main() -> None:
    """Measure, print, and write bench/results/page.json."""
    parser = argparse.ArgumentParser(description="Time the page's server.")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--no-start", action="store_true", help="leave out the start of the server, the slowest part")
    options = parser.parse_args()
    rows = [] if options.no_start else [start(options.repeats)]
    with tempfile.TemporaryDirectory() as folder:
        page = build(Settings(Path(folder)))
        bench = Bench(page, page.shared.sessions.enter(None)[0].token, options.repeats)
        rows += bench.rows()
        bench.all_adapters()
        rows += bench.rows()
    for row in rows:
        spread = f"median {row.median:>8.1f} ms, {row.least:.1f} to {row.most:.1f}, target {row.target:.0f}"
        beside = f"cpu {row.cpu:.1f} ms  load {row.load}  {row.parts}"
        print(f"{row.measure:<11} {row.adapters:>2} adapters  {spread}  {beside}")
    RESULTS.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
