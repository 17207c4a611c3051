"""Phi-4-multimodal's two adapters at their real shapes, from a synthetic checkpoint. `python -m bench.phi4`

The checkpoint has the names, shapes and number formats of the public one: 32 layers, three shards, 512
bfloat16 LoRA tensors of rank 256 (`vision`) and 320 (`speech`) beside 128 base weights. Its LoRA values are random; its
base weights are holes in sparse files, since nothing here ever reads them. Every measurement is a process of its own,
so that its peak memory is its own. Writes bench/results/phi4.json.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from bench.synthetic import machine, peak_memory

RESULTS = Path(__file__).parent / "results" / "phi4.json"
SHARDS = 3
SAME = "model.layers.0.self_attn.qkv_proj"


@dataclass(frozen=True, slots=True)
class Phi4:
    """The sizes of the decoder and of its adapters."""

    layers: int = 32
    width: int = 3072
    hidden: int = 8192
    heads: int = 24
    key_heads: int = 8
    vision: int = 256
    speech: int = 320

    @property
    def head(self) -> int:
        """Rows of a head."""
        return self.width // self.heads

    def modules(self, layer: int) -> Iterator[tuple[str, int, int]]:
        """(name, d_out, d_in) of one layer."""
        stem, fused = f"model.layers.{layer}", (self.heads + 2 * self.key_heads) * self.head
        yield f"{stem}.self_attn.qkv_proj", fused, self.width
        yield f"{stem}.self_attn.o_proj", self.width, self.width
        yield f"{stem}.mlp.gate_up_proj", 2 * self.hidden, self.width
        yield f"{stem}.mlp.down_proj", self.width, self.hidden

    def config(self) -> dict[str, Any]:
        """The part of config.json that matters here."""
        attention, mlp = r"(self_attn\.(qkv_proj|o_proj))", r"(mlp\.(gate_up|down)_proj)"
        return {
            "architectures": ["Phi4MMForCausalLM"],
            "model_type": "phi4mm",
            "hidden_size": self.width,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "num_hidden_layers": self.layers,
            "vision_lora": {
                "dp": 0.0,
                "layer": f"layers.*({attention}|{mlp})",
                "lora_alpha": 2 * self.vision,
                "r": self.vision,
            },
            "speech_lora": {
                "dp": 0.01,
                "layer": r"((layers.*self_attn\.(qkv|o)_proj)|(layers.*mlp\.(gate_up|down)_proj))",
                "lora_alpha": 2 * self.speech,
                "r": self.speech,
            },
        }


def write_checkpoint(folder: Path, shape: Phi4, seed: int = 0) -> int:
    """Write config.json, the index and the shards; returns their bytes, holes included."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape.config()))
    names = [f"model-{number + 1:05}-of-{SHARDS:05}.safetensors" for number in range(SHARDS)]
    rng, places = np.random.default_rng(seed), {}
    for number, name in enumerate(names):
        tensors = {}
        for layer in range(number, shape.layers, SHARDS):
            for module, d_out, d_in in shape.modules(layer):
                tensors |= _tensors(module, d_out, d_in, {"vision": shape.vision, "speech": shape.speech})
        _write_shard(folder / name, tensors, rng)
        places |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return sum((folder / name).stat().st_size for name in names)


def _tensors(module: str, d_out: int, d_in: int, ranks: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    found = {f"{module}.base_layer.weight": (d_out, d_in)}
    for name, rank in ranks.items():
        found |= {f"{module}.lora_A.{name}.weight": (rank, d_in), f"{module}.lora_B.{name}.weight": (d_out, rank)}
    return found


def _write_shard(path: Path, tensors: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> None:
    """A safetensors file in bfloat16 whose base weights are a hole."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, size in tensors.items():
        start, end = end, end + 2 * math.prod(size)
        header[key] = {"dtype": "BF16", "shape": list(size), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key, size in tensors.items():
            if ".lora_" in key:
                values = rng.standard_normal(math.prod(size), np.float32) / math.sqrt(size[-1])
                file.write((values.view(np.uint32) >> 16).astype("<u2").tobytes())
            else:
                file.seek(2 * math.prod(size), 1)


# What is measured ----------------------------------------------------------------------------------------------------


def opened(folder: Path) -> dict[str, Any]:
    """Open both adapters out of the checkpoint."""
    from studio.formats import open_adapter

    adapters = [open_adapter(f"{folder}#{name}") for name in ("vision", "speech")]
    return {
        "modules": [len(adapter.modules) for adapter in adapters],
        "ranks": [adapter.ranks for adapter in adapters],
        "scaling": sorted({module.scaling for adapter in adapters for module in adapter.modules.values()}),
        "findings": [finding.text for adapter in adapters for finding in adapter.findings],
    }


def viewed(folder: Path) -> dict[str, Any]:
    """Norms, energy, overlap and cosines of every module of both."""
    from studio.formats import open_adapter
    from studio.routing.modality_views import modality_views

    views = modality_views([open_adapter(f"{folder}#{name}") for name in ("vision", "speech")])
    shared = [view.shared[0] for view in views.modules]
    found = [pair for pair in shared if pair is not None]
    return {
        "modules": len(views.modules),
        "norms": [views.norm(0), views.norm(1)],
        "cosine": views.cosine(0),
        "outputs_over_chance": float(np.mean([pair.outputs / pair.chance[0] for pair in found])),
        "inputs_over_chance": float(np.mean([pair.inputs / pair.chance[1] for pair in found])),
    }


def extracted(folder: Path) -> dict[str, Any]:
    """Extract both to PEFT folders, bfloat16, read back and compared by the export itself."""
    from studio.formats import open_adapter, save_adapter

    sizes = []
    for name in ("vision", "speech"):
        out = save_adapter(open_adapter(f"{folder}#{name}"), folder.parent / "out" / f"{name}-lora", dtype="bfloat16")
        sizes.append((out / "adapter_model.safetensors").stat().st_size)
    return {"bytes": sizes}


def reopened(folder: Path) -> dict[str, Any]:
    """Open both from the folders that were extracted; the largest difference of a module's update."""
    from studio.formats import open_adapter

    worst = 0.0
    for name in ("vision", "speech"):
        before, after = (
            open_adapter(f"{folder}#{name}").delta(SAME),
            open_adapter(f"{folder.parent}/out#{name}").delta(SAME),
        )
        worst = max(worst, float(np.linalg.norm(before - after) / np.linalg.norm(before)))
    return {"difference": worst}


def split(folder: Path) -> dict[str, Any]:
    """Take fused projections apart; whether the parts of one, put together, are the whole bit for bit."""
    from studio.formats import open_adapter
    from studio.formats.containers.bundle import read_config
    from studio.formats.projections import split_projections

    vision = open_adapter(f"{folder}#vision")
    parts = split_projections(vision, read_config(folder / "config.json"))
    stem = SAME.rpartition(".")[0]
    whole = np.concatenate([parts.modules[f"{stem}.{name}_proj"].B for name in "qkv"])
    return {"modules": len(parts.modules), "is_exact": bool(np.array_equal(whole, vision.modules[SAME].B))}


def merged(folder: Path) -> dict[str, Any]:
    """Merge both by `cat` at weight 1, the sum that the reference never uses, with its report; nothing is written."""
    from studio.composing.compose import compose, recipe_for
    from studio.formats import open_adapter
    from studio.recipes.sources import Sources

    adapters = tuple(open_adapter(f"{folder}#{name}") for name in ("vision", "speech"))
    result = compose(recipe_for(adapters, "cat", [1.0, 1.0], {}), Sources(adapters))
    return {"rank": result.adapter.rank, "norm": result.adapter.modules[SAME].norm()}


WORKS = {
    "open": opened,
    "views": viewed,
    "split": split,
    "extract": extracted,
    "reopen": reopened,
    "merge": merged,
}


def measured(work: str, folder: Path) -> dict[str, Any]:
    """Run one of the works in this process: what it found, seconds, and by how much the process grew."""
    import torch

    import studio.formats  # noqa: F401  imports are not what is measured

    torch.zeros(1)
    before, wall, cpu = peak_memory(), perf_counter(), process_time()
    found = WORKS[work](folder)
    return {
        **found,
        "seconds": perf_counter() - wall,
        "cpu_seconds": process_time() - cpu,
        "extra_bytes": peak_memory() - before,
    }


def main() -> None:
    """Measure everything, or in a child process one work."""
    parser = argparse.ArgumentParser(prog="python -m bench.phi4", description=__doc__)
    parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(measured(given.work, given.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="phi4-") as temporary:
        folder = Path(temporary) / "phi4"
        size = write_checkpoint(folder, Phi4())
        found: dict[str, Any] = {"machine": machine(), "checkpoint_bytes": size}
        for work in WORKS:
            command = [sys.executable, "-m", "bench.phi4", "--work", work, "--folder", str(folder)]
            found[work] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(work, found[work], flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
