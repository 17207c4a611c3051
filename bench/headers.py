"""A hundred adapters judged by their headers: `python -m bench.headers`

A hundred PEFT folders of rank 16 at the shapes of Llama 3.1 8B, 224 modules each. Their headers and configs are real,
their values are holes in the file, which nothing here reads. Each is opened, and all are checked against each other as
before a merge. Writes bench/results/headers.json.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from time import perf_counter, process_time

from bench.synthetic import LLAMA_8B, machine
from studio import open_adapter
from studio.composing.preflight import check
from studio.merging import method_by_id

RESULTS = Path(__file__).parent / "results" / "headers.json"
COUNT, RANK, REPEATS = 100, 16, 3
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 32, "base_model_name_or_path": "meta-llama/Llama-3.1-8B"}


def header() -> tuple[bytes, int]:
    """The header of one file, and the bytes of values after it."""
    entries: dict[str, object] = {}
    end = 0
    for name, d_out, d_in in LLAMA_8B.modules():
        for half, shape in (("A", (RANK, d_in)), ("B", (d_out, RANK))):
            start, end = end, end + 4 * math.prod(shape)
            key = f"base_model.model.{name}.lora_{half}.weight"
            entries[key] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text, end


def written(root: Path) -> list[Path]:
    """The folders, their weights files as long as they say and empty behind the header."""
    text, size = header()
    folders = [root / f"adapter-{number}" for number in range(COUNT)]
    for folder in folders:
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
        with (folder / "adapter_model.safetensors").open("wb") as file:
            file.write(text)
            file.truncate(len(text) + size)
    return folders


def judged(folders: list[Path]) -> int:
    """How many modules the adapters have, all opened and checked together."""
    adapters = [open_adapter(folder) for folder in folders]
    check(adapters, method_by_id("cat"))
    return sum(len(adapter.modules) for adapter in adapters)


def main() -> None:
    """Measure, print and keep the least of some runs."""
    about = machine()
    with tempfile.TemporaryDirectory() as temporary:
        folders = written(Path(temporary))
        runs = []
        for _ in range(REPEATS):
            started, cpu = perf_counter(), process_time()
            modules = judged(folders)
            runs.append((process_time() - cpu, perf_counter() - started))
    cpu, wall = min(runs)
    found = {"machine": about, "adapters": COUNT, "modules": modules, "cpu_seconds": cpu, "seconds": wall}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
