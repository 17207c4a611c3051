"""The plain LoRA of a run, one for every edit and trained as long as the basis, as a file to open beside it.

A run leaves the LoRA of equal total rank in `training/single`. It goes into `single` as an ordinary diffusers LoRA;
its measures, and those of it cut to a small rank, on the same fresh trials, go into results.json.

python -m training.vision.single --model build/vision
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import studio
from studio.core.adapter import Adapter, in_memory_module
from studio.formats import save_adapter
from studio.formats.containers.lorweb_file import PREFIX
from studio.vision.pipeline import STEPS, AnalogyModel, load_embedded
from training.vision import files
from training.vision.evaluate import SPLITS, draw_trials, measure
from training.vision.run import PARTS, SINGLE, means
from training.vision.shipped import CPU, ShippedPredictor
from training.weights import read_weights

_TRIAL_SEED = 7


def read_single(folder: Path) -> Adapter:
    """The LoRA that a run left, whole."""
    state = read_weights(folder / SINGLE, CPU)
    names = {key.rpartition(".")[0] for key in state}
    modules = {}
    for name in sorted(names):
        down, up = (np.asarray(state[f"{name}.{part}"]) for part in PARTS)
        modules[PREFIX + name] = in_memory_module(PREFIX + name, down, up)
    return Adapter("one LoRA for every edit", modules, "diffusers")


def main() -> None:
    """Write the adapter; measure it whole and cut on the same trials."""
    parser = argparse.ArgumentParser(prog="python -m training.vision.single", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a training run")
    parser.add_argument("--cut", type=int, default=16, help="a rank to measure it at, too")
    parser.add_argument("--per-task", type=int, default=2, help="analogies of each task to measure both on")
    chosen = parser.parse_args()
    model, whole = load_embedded(chosen.model), read_single(chosen.model)
    save_adapter(whole, chosen.model / "single", "diffusers", dtype="float16")
    small = studio.merge([whole], "svd", rank=chosen.cut)
    found = {_rank(one): _measured(model, one, chosen.per_task) for one in (whole, small)}
    results = files.read_json(chosen.model / "results.json")
    files.write_json(chosen.model / "results.json", results | {"single": found})


def _rank(adapter: Adapter) -> str:
    return str(max(module.rank for module in adapter.modules.values()))


def _measured(model: AnalogyModel, adapter: Adapter, per_task: int) -> dict[str, dict[str, object]]:
    """Means of every split on fresh trials."""
    found = {}
    for place, split in enumerate(SPLITS):
        trials = draw_trials(split, per_task, _TRIAL_SEED + place, CPU)
        found[split] = means(measure(trials, ShippedPredictor(model, STEPS, adapter), model.vae.encoder))
    return found


if __name__ == "__main__":
    main()
