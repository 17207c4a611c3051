"""`cat` beside copying the same bytes. `python -m bench.cat`

Four random adapters of rank 16 with the shapes of Llama 3.1 8B lie on disk as PEFT writes them. One
side copies the four weights files, synced to disk; ours opens them, merges, writes the export, syncs, reads it back and
compares it. Both move the same bytes: the result holds all factors of the sources. Writes bench/results/cat.json.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

from bench.synthetic import LLAMA_8B, Clock, adapter, machine, timed
from studio import open_adapter
from studio.composing.compose import compose, recipe_for
from studio.composing.export import export
from studio.formats import save_adapter
from studio.recipes.sources import Sources

RESULTS = Path(__file__).parent / "results" / "cat.json"
SOURCES, RANK, REPEATS = 4, 16, 3


def copy_all(folders: list[Path], out: Path) -> None:
    """Copy every weights file and wait for the disk."""
    for folder in folders:
        target = out / f"{folder.name}.safetensors"
        shutil.copyfile(folder / "adapter_model.safetensors", target)
        with target.open("rb+") as file:
            os.fsync(file.fileno())


def compose_all(folders: list[Path], out: Path | None) -> None:
    """Open, merge and, with `out`, export."""
    sources = tuple(open_adapter(folder) for folder in folders)
    recipe = recipe_for(sources, "cat", None, {})
    composition = compose(recipe, Sources(sources))
    if out is not None:
        export(composition, recipe, out)


def main() -> None:
    """Measure and write the figures."""
    about = machine()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        folders = [save_adapter(adapter(i, LLAMA_8B, RANK, Clock()), root / f"a{i}") for i in range(SOURCES)]
        size = sum((folder / "adapter_model.safetensors").stat().st_size for folder in folders)
        copies = root / "copies"
        copies.mkdir()
        spent = timed(
            {
                "copy": partial(copy_all, folders, copies),
                "compose": partial(compose_all, folders, None),
                "compose_and_export": partial(compose_all, folders, root / "merged"),
            },
            REPEATS,
        )
    found = {
        "machine": about,
        "sources": SOURCES,
        "rank": RANK,
        "modules": len(list(LLAMA_8B.modules())),
        "bytes": size,
        **{f"{name}_seconds": one.wall for name, one in spent.items()},
        **{f"{name}_cpu_seconds": one.cpu for name, one in spent.items()},
        "compose_ratio": spent["compose"].wall / spent["copy"].wall,
        "export_ratio": spent["compose_and_export"].wall / spent["copy"].wall,
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
