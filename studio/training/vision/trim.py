"""Make a trained basis smaller: leave out the adapters that each layer hardly uses.

Keys belong to a layer, so each layer may drop adapters of its own; what is left of the softmax shares the rest.
An adapter's use is the root mean square of its coefficient over fresh analogies of the seen transforms, times the norm
of its update. Logits of N adapters need keys no wider than N, so keys and queries shrink too, without any loss.
Measures of both, on the same fresh trials, go into results.json. Cutting the rank instead was tried and costs more.

python -m studio.training.vision.trim --model assets/vision --keep 24
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from studio.training.vision import files
from studio.training.vision.evaluate import SPLITS, draw_trials, measure
from studio.training.vision.shipped import ShippedPredictor, to_picture
from studio.vision.lorweb import BasisLayer, Lorweb
from studio.vision.lorweb_file import write_lorweb
from studio.vision.pipeline import EMBEDDED, STEPS, AnalogyModel, load_embedded

CPU = torch.device("cpu")
_USE_SEED, _TRIAL_SEED = 99, 7


def usage(model: AnalogyModel, per_task: int = 2) -> dict[str, Tensor]:
    """By layer, how much each adapter (N,) moves the update over fresh validation analogies."""
    trials = draw_trials("validation", per_task, _USE_SEED, CPU)
    rows = [row for trial in trials for row in zip(trial.a, trial.a2, trial.b, strict=True)]
    mixes = torch.stack([model.route(model.look(*map(to_picture, row))) for row in rows])  # (rows, layers, N)
    used = mixes.square().mean(0).sqrt()
    return {name: row * norms(layer) for row, (name, layer) in zip(used, model.basis.layers.items(), strict=True)}


def norms(layer: BasisLayer) -> Tensor:
    """Norm of each adapter's update (N,)."""
    down, up = layer.down.float(), layer.up.float()
    return ((down.mT @ down) * (up @ up.mT)).sum((1, 2)).clamp_min(0).sqrt()


def trim(basis: Lorweb, used: Mapping[str, Tensor], keep: int) -> Lorweb:
    """The basis with the `keep` most used adapters of every layer."""
    return replace(basis, layers={name: _trim(layer, used[name], keep) for name, layer in basis.layers.items()})


def _trim(layer: BasisLayer, used: Tensor, keep: int) -> BasisLayer:
    rows = used.topk(min(keep, len(used))).indices.sort().values
    return BasisLayer(layer.down[rows], layer.up[rows], *narrowed(layer.keys[rows].float(), layer.to_q.float()))


def narrowed(keys: Tensor, to_q: Tensor) -> tuple[Tensor, Tensor]:
    """Keys (N, d) and projection (d, Q) with the same logits and d at most N: a QR of the keys' transpose."""
    count, width = keys.shape
    if count >= width:
        return keys, to_q
    q, r = torch.linalg.qr(keys.T)  # (d, N), (N, N): keys = r.T q.T
    return r.T * (count / width) ** 0.5, q.T @ to_q  # logits are divided by the root of the width


def main() -> None:
    """Trim, measure both on the same trials, write the basis and the measures."""
    parser = argparse.ArgumentParser(prog="python -m studio.training.vision.trim", description=__doc__)
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--keep", type=int, default=24, help="adapters a layer")
    parser.add_argument("--per-task", type=int, default=2, help="analogies of each task to measure both on")
    chosen = parser.parse_args()
    model = load_embedded(chosen.model)
    smaller = replace(model, basis=trim(model.basis, usage(model), chosen.keep))
    results = files.read_json(chosen.model / "results.json")
    results["trimmed"] = {str(one.basis.size): _measured(one, chosen.per_task) for one in (model, smaller)}
    files.write_json(chosen.model / "results.json", results)
    write_lorweb(smaller.basis, chosen.model / "lorweb")


def _measured(model: AnalogyModel, per_task: int) -> dict[str, dict[str, object]]:
    """Means of every split on fresh trials."""
    found = {}
    for place, split in enumerate(SPLITS):
        trials = draw_trials(split, per_task, _TRIAL_SEED + place, CPU)
        found[split] = measure(trials, ShippedPredictor(model, STEPS), model.vae.encoder)
        del found[split]["tasks"]
    return found


if __name__ == "__main__":
    main()
