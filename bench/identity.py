"""The identity law, ours and stock PEFT's: one adapter at weight 1 must come back. `python -m bench.identity`

Every adapter is made and saved by stock PEFT, and its own `get_delta_weight` says what its update is. Ours: opened,
merged, exported, and read again by us and by stock PEFT; the worse of the two counts. PEFT's: `add_weighted_adapter`,
read at once and after saving and loading. Writes docs/explanation/identity.md and bench/results/identity.json.
"""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

import studio

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "explanation" / "identity.md", ROOT / "bench" / "results" / "identity.json"
TOLERANCE = 1e-5
Deltas = Mapping[str, np.ndarray[Any, Any]]


class Toy(nn.Module):
    """One or two layers of each kind that PEFT adapts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 16), nn.Linear(16, 20)
        self.c_attn = Conv1D(18, 12)  # GPT-2's: 12 in, 18 out, the weight stored (in, out)
        self.conv = nn.Conv2d(6, 10, (3, 2))
        self.wte = nn.Embedding(30, 12)


@dataclass(frozen=True)
class Layout:
    """A kind of adapter: what it targets and what its config says."""

    title: str
    targets: tuple[str, ...] = ("first", "second")
    config: Mapping[str, Any] = field(default_factory=dict)


LAYOUTS = {
    "half": Layout("alpha/r = 0.5", config={"lora_alpha": 2}),
    "one": Layout("alpha/r = 1"),
    "two": Layout("alpha/r = 2", config={"lora_alpha": 8}),
    "rslora": Layout("rsLoRA", config={"use_rslora": True}),
    "rank_pattern": Layout("rank_pattern", config={"rank_pattern": {"second": 2}}),
    "fan_in_fan_out": Layout("fan_in_fan_out", ("c_attn",), {"fan_in_fan_out": True}),
    "conv2d": Layout("conv2d", ("conv",), {"lora_alpha": 8}),
    "embedding": Layout("embedding", ("wte",), {"lora_alpha": 8}),
}
# At density 1 nothing is dropped, so that these too have no excuse.
COMBINATIONS: Mapping[str, Mapping[str, Any]] = {
    "cat": {},
    "svd": {},
    "linear": {},
    "ties": {"density": 1.0},
    "ties_svd": {"density": 1.0},
    "dare_linear": {"density": 1.0},
    "dare_linear_svd": {"density": 1.0},
    "magnitude_prune": {"density": 1.0},
    "magnitude_prune_svd": {"density": 1.0},
}


@dataclass(frozen=True)
class Outcome:
    """How far a result is from what it must be: ||got - want|| / ||want||; `ratio` where it is a multiple of it."""

    error: float = float("nan")
    ratio: float | None = None
    refusal: str = ""

    def __str__(self) -> str:
        if self.refusal:
            return self.refusal
        if self.error <= TOLERANCE:
            return f"{self.error:.0e}"
        return f"**× {self.ratio:.2f}**" if self.ratio is not None else f"**off by {self.error:.0%}**"


def stock(layout: Layout, names: Sequence[str] = ("default",)) -> PeftModel:
    """A toy model with random adapters of these names, made by stock PEFT."""
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 4, "lora_alpha": 4, "target_modules": list(layout.targets), **layout.config})
    model = get_peft_model(Toy(), config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, copy.deepcopy(config))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    return model


def stock_deltas(model: PeftModel, adapter: str = "default") -> Deltas:
    """Every update as stock PEFT computes it, turned to (d_out, d_in)."""
    found = {}
    for name, layer in model.base_model.model.named_modules():
        if isinstance(layer, LoraLayer):
            delta = layer.get_delta_weight(adapter).detach()
            turned = isinstance(layer.get_base_layer(), Conv1D | nn.Embedding)
            found[name] = (delta.T if turned else delta.flatten(1)).double().numpy()
    return found


def outcome(got: Deltas, want: Deltas) -> Outcome:
    """Compare over all modules together."""
    if got.keys() != want.keys():
        return Outcome(refusal="**modules lost**")
    x, y = (np.concatenate([deltas[name].ravel() for name in want]) for deltas in (got, want))
    ratio = float(x @ y / (y @ y))
    multiple = np.linalg.norm(x - ratio * y) <= TOLERANCE * np.linalg.norm(x)
    return Outcome(float(np.linalg.norm(x - y) / np.linalg.norm(y)), ratio if multiple else None)


def ours(method: str, layout: Layout) -> Outcome:
    """One adapter through our merge and export; the worse of what we and what stock PEFT read from it."""
    model = stock(layout)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        merged = studio.merge([studio.open_adapter(folder)], method, [1.0])
        exported = studio.save_adapter(merged, Path(folder) / "merged")
        again = studio.open_adapter(exported)
        by_us = outcome({name: again.delta(name) for name in again.modules}, stock_deltas(model))
        by_peft = outcome(stock_deltas(PeftModel.from_pretrained(Toy(), exported)), stock_deltas(model))
    return max(by_us, by_peft, key=_badness)


def peft_now(combination: str, layout: Layout) -> Outcome:
    """PEFT's own merge of one adapter at weight 1, in memory."""
    model = stock(layout)
    return _attempt(lambda: _merged_deltas(model, ["default"], [1.0], combination), stock_deltas(model))


def peft_beside(combination: str, layout: Layout) -> Outcome:
    """PEFT's merge of two adapters at weights (1, 0), in memory: the first must come back."""
    model = stock(layout, ("default", "other"))
    return _attempt(lambda: _merged_deltas(model, ["default", "other"], [1.0, 0.0], combination), stock_deltas(model))


def peft_saved(combination: str, layout: Layout) -> Outcome:
    """PEFT's merge of one adapter at weight 1, saved and loaded again by PEFT."""
    model = stock(layout)
    want = stock_deltas(model)
    return _attempt(lambda: _through_a_file(model, combination), want)


def _merged_deltas(model: PeftModel, names: list[str], weights: list[float], combination: str) -> Deltas:
    model.add_weighted_adapter(names, weights, "merged", combination_type=combination, **COMBINATIONS[combination])
    return stock_deltas(model, "merged")


def _through_a_file(model: PeftModel, combination: str) -> Deltas:
    _merged_deltas(model, ["default"], [1.0], combination)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, selected_adapters=["merged"])
        return stock_deltas(PeftModel.from_pretrained(Toy(), Path(folder) / "merged"))


def _attempt(merge: Callable[[], Deltas], want: Deltas) -> Outcome:
    try:
        return outcome(merge(), want)
    except (ValueError, NotImplementedError) as error:
        return Outcome(refusal=f"refused ({type(error).__name__})")
    except Exception as error:  # whatever a peer's code raises belongs in the table
        return Outcome(refusal=f"**fails ({type(error).__name__})**")


def _badness(found: Outcome) -> float:
    return float("inf") if found.refusal else found.error


Row = Mapping[str, Outcome]
Table = Mapping[str, Row]


def table(measure: Callable[[str, Layout], Outcome], names: Sequence[str]) -> Table:
    """One row for each of `names`, one outcome for each layout."""
    return {name: {key: measure(name, layout) for key, layout in LAYOUTS.items()} for name in names}


def measured() -> dict[str, Table]:
    """All four tables."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT remarks on Conv1D and on targeted embeddings
        return {
            "ours": table(ours, list(studio.methods())),
            "peft_now": table(peft_now, list(COMBINATIONS)),
            "peft_beside": table(peft_beside, list(COMBINATIONS)),
            "peft_saved": table(peft_saved, list(COMBINATIONS)),
        }


def markdown(found: Table) -> str:
    """The table for people."""
    lines = [f"| | {' | '.join(layout.title for layout in LAYOUTS.values())} |", f"|---{'|---' * len(LAYOUTS)}|"]
    lines += [f"| `{name}` | {' | '.join(str(row[key]) for key in LAYOUTS)} |" for name, row in found.items()]
    return "\n".join(lines)


TEXT = """# The identity law

One adapter at weight 1 must come back from a merge unchanged. It is the least that can be asked, and the quickest way
to see scaling applied twice, a flag that is inherited, a transposed weight or a rank that gets lost.

Measured by `python -m bench.identity` with peft {peft}, torch {torch}, transformers {transformers}. Every adapter is
made and saved by stock PEFT with random factors of rank 4, and PEFT's own `get_delta_weight` says what its update is.
A cell is ||got - want|| / ||want|| over all modules; **× c** is a result that is c times what it must be.
`rank_pattern` gives one of two layers rank 2; conv2d and embedding have alpha/r = 2.

## LoRA Loom

Opened, merged alone at weight 1, exported, and read again by us and by stock PEFT; the worse of the two is shown.
{by_design} change a single adapter by design: they prune it, or make its directions equally strong.

{ours}

## PEFT `add_weighted_adapter`, one adapter at weight 1

{peft_now}

## PEFT, two adapters at weights (1, 0)

{peft_beside}

## PEFT, one adapter at weight 1, saved and loaded again

{peft_saved}

`ties`, `dare_*` and `magnitude_prune*` run at density 1, so nothing is pruned.

**How to read it.** `use_rslora` is inherited by the merged config, so the finished product is scaled by the root of its
rank once more. A merged config inherits `rank_pattern` too, with ranks that the saved tensors do not have. In `ties` an
adapter of weight 0 still votes on the signs and is still counted in the mean; in ours it is not there at all, which
`tests/contract` checks for every method, byte by byte. Scaling by alpha, transposed layers, convolutions and embeddings
are right in both. Our exports have nothing to inherit: one rank for all modules, `lora_alpha = r`, no patterns, no
flags, the scaling folded into the factors.
"""


def main() -> None:
    """Measure, write the page and the figures."""
    found = measured()
    free = [f"`{id}`" for id, method in studio.methods().items() if not method.laws.identity]
    versions = {name: version(name) for name in ("peft", "torch", "transformers")}
    tables = {name: markdown(rows) for name, rows in found.items()}
    PAGE.write_text(TEXT.format(**versions, **tables, by_design=", ".join(free)))
    plain = {
        name: {row: {key: vars(cell) for key, cell in cells.items()} for row, cells in rows.items()}
        for name, rows in found.items()
    }
    RESULTS.write_text(json.dumps({"versions": versions, **plain}, indent=1).replace("NaN", "null") + "\n")
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
