"""What the files in assets/vision do in the studio's own sampler, on this machine: measures, milliseconds, pictures.

python -m training.vision.shipped measure --per-task 2
python -m training.vision.shipped latency
python -m training.vision.shipped samples --to samples.png
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio.core.adapter import Adapter
from studio.vision import world
from studio.vision.pipeline import EMBEDDED, AnalogyModel, Seen, load_embedded
from training.vision import report
from training.vision.data import as_bytes, as_floats
from training.vision.evaluate import SPLITS, Predict, copy_b, draw_trials, measure, wrong_reference

CPU = torch.device("cpu")


def to_picture(pixels: Tensor) -> Image.Image:
    """A PIL image of a uint8 tensor (3, h, w)."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


@dataclass(frozen=True, eq=False)
class ShippedPredictor:
    """The studio's sampler as a predictor of `evaluate.measure`, one analogy at a time.

    It draws by the basis, or where an `adapter` is given by that one LoRA for every analogy.
    """

    model: AnalogyModel
    steps: int
    adapter: Adapter | None = None

    def __call__(self, a: Tensor, a2: Tensor, b: Tensor, answer: Tensor) -> Tensor:
        """Generated b' of uint8 images; `answer` is not looked at."""
        drawn = []
        for seed, row in enumerate(zip(a, a2, b, strict=True)):
            picture = self._draw(self.model.look(*map(to_picture, row)), seed)
            drawn.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
        return as_floats(torch.stack(drawn))

    def _draw(self, seen: Seen, seed: int) -> Image.Image:
        if self.adapter is None:
            return self.model.draw(seen, self.model.route(seen), steps=self.steps, seed=seed)
        return self.model.draw_loras(seen, [(self.adapter, 1.0)], steps=self.steps, seed=seed)


def measure_shipped(model: AnalogyModel, per_task: int, steps: int, seed: int = 5) -> None:
    """Print the table of every split on fresh trials, beside copying b and another task's pair."""
    shipped = ShippedPredictor(model, steps)
    rows: dict[str, dict[str, object]] = {"copy b": {}, "wrong reference": {}, f"lorweb, {steps} steps, shipped": {}}
    for split in SPLITS:
        trials = draw_trials(split, per_task, seed, CPU)
        predictors: tuple[Predict, ...] = (copy_b, wrong_reference(shipped, trials), shipped)
        for name, predict in zip(rows, predictors, strict=True):
            rows[name][split] = measure(trials, predict, model.vae.encoder)
    print(report.table({"scores": rows}))


def latency(model: AnalogyModel, repeats: int = 9) -> None:
    """Print median and best milliseconds of a whole analogy and of its parts."""
    batch = world.draw(("tint",), 1, 2, torch.Generator().manual_seed(0))
    pictures = [to_picture(as_bytes(p)) for p in (batch.before[0, 0], batch.after[0, 0], batch.before[0, 1])]
    seen = model.look(*pictures)
    mix = model.route(seen)
    jobs: dict[str, Callable[[], object]] = {
        f"whole analogy, {steps} steps": partial(model.analogy, *pictures, steps=steps) for steps in (1, 2, 4)
    }
    jobs["look at three pictures"] = lambda: model.look(*pictures)
    jobs["draw again, 2 steps (a slider moves)"] = lambda: model.draw(seen, mix)
    for name, job in jobs.items():
        job()
        times = [_seconds(job) for _ in range(repeats)]
        print(f"{name:38s} median {statistics.median(times) * 1e3:4.0f} ms  best {min(times) * 1e3:4.0f} ms")
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")


def _seconds(job: Callable[[], object]) -> float:
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def samples(model: AnalogyModel, to: Path, columns: int = 4, seed: int = 11) -> None:
    """Write one analogy of every task, a row of a, a', b, what is drawn and the truth: seen, unseen, unseen pairs."""
    tiles = []
    for split in ("seen", "transform", "pair"):
        for trial in draw_trials(split, 1, seed, CPU)[:59]:
            drawn = ShippedPredictor(model, 2)(trial.a[:1], trial.a2[:1], trial.b[:1], trial.answer[:1])[0]
            strip = [trial.a[0], trial.a2[0], trial.b[0], as_bytes(drawn), trial.answer[0]]
            tiles.append(torch.nn.functional.pad(torch.cat(strip, 2), (2, 6, 2, 2), value=255))
    tiles += [torch.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [torch.cat(tiles[k : k + columns], 2) for k in range(0, len(tiles), columns)]
    to_picture(torch.cat(rows, 1)).save(to, optimize=True)


def main() -> None:
    """Parse the command line and do one of the three."""
    parser = argparse.ArgumentParser(prog="python -m training.vision.shipped", description=__doc__)
    parser.add_argument("what", choices=("measure", "latency", "samples"))
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--per-task", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--to", type=Path, default=Path("samples.png"))
    chosen = parser.parse_args()
    model = load_embedded(chosen.model)
    if chosen.what == "measure":
        measure_shipped(model, chosen.per_task, chosen.steps)
    elif chosen.what == "latency":
        latency(model)
    else:
        samples(model, chosen.to)


if __name__ == "__main__":
    main()
