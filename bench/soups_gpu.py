"""A realistic size: CAT's and ReMix's steps beside a plain PEFT LoRA step, and 8 variants previewed at once or in turn.

`python -m bench.soups_gpu`, on a machine with a GPU: a randomly initialised Llama of 1.26 B parameters in bfloat16, two
random adapters of rank 16 on all seven linear layers, 8 texts of 256 tokens a step. ReMix routes eight adapters, with a
router in every block that decides for each token, M = 2, on 8 short sums a step. Speed does not depend on what the
weights say. `--toy` runs the same code with a tiny model anywhere, to check it; its figures are not kept. Writes
bench/results/soups_gpu.json, or $OUT/soups_gpu.json where OUT is set.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from studio.core.adapter import Adapter, in_memory_module
from studio.learning.coefficients import Settings, mixture
from studio.learning.fit import Schedule
from studio.routing import train as routing
from studio.routing.items import skill_items
from studio.routing.text import Shape, TextWorld, learn_router, text_world
from studio.text.bases import Base, TextBase
from studio.text.decoding import Decoding
from studio.text.preview import open_preview

ROOT = Path(__file__).parents[1]
RESULTS = Path(os.environ.get("OUT", ROOT / "bench" / "results")) / "soups_gpu.json"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, VARIANTS = 16, 8


@dataclass(frozen=True)
class Size:
    """A Llama and the work it gets."""

    hidden: int = 2048
    inner: int = 5632
    layers: int = 22
    heads: int = 32
    vocabulary: int = 32_000
    batch: int = 8
    tokens: int = 256
    steps: int = 20
    written: int = 64


TOY = Size(32, 64, 2, 4, 4096, 2, 16, 2, 4)


def open_random(size: Size) -> TextBase:
    """A randomly initialised base on the GPU, if there is one; the tokenizer of the embedded base."""
    config = LlamaConfig(
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        vocab_size=size.vocabulary,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=None,  # nothing ends early
    )
    torch.manual_seed(0)
    on_gpu = torch.cuda.is_available()
    model = LlamaForCausalLM(config).to("cuda" if on_gpu else "cpu", torch.bfloat16 if on_gpu else torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets" / "text" / "base")
    return TextBase(Base("random", None, "random"), model.eval().requires_grad_(False), tokenizer)


def adapter(base: TextBase, seed: int) -> Adapter:
    """A random adapter on every linear layer."""
    rng = np.random.default_rng(seed)
    modules = {}
    for name, layer in base.model.named_modules():
        if name.rpartition(".")[2] in TARGETS:
            a = rng.normal(0, 0.02, (RANK, layer.in_features)).astype(np.float32)
            b = rng.normal(0, 0.02, (layer.out_features, RANK)).astype(np.float32)
            modules[name] = in_memory_module(name, a, b, 1.0)
    return Adapter(f"variant {seed}", modules, "peft")


def timed(work: Callable[[], object], times: int) -> dict[str, float]:
    """Seconds a time after one to warm up, and the peak of GPU memory beyond what was held before, in GB."""
    work()
    _settle()
    held = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    started = perf_counter()
    for _ in range(times):
        work()
    _settle()
    seconds = (perf_counter() - started) / times
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"seconds": seconds, "a_second": 1 / seconds, "peak_gb": peak / 1e9, "beyond_gb": (peak - held) / 1e9}


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass(frozen=True, eq=False)
class Trainer:
    """One step of AdamW on a model's next-token loss over a fixed batch."""

    model: Any
    optimizer: torch.optim.Optimizer
    ids: torch.Tensor

    def __call__(self) -> float:
        """Make the step; its loss."""
        logits = self.model(input_ids=self.ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), self.ids[:, 1:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def cat_step(base: TextBase, sources: Sequence[Adapter], ids: torch.Tensor) -> Trainer:
    """CAT's step: one coefficient a module and adapter."""
    mix = mixture(base, sources, Settings())
    mix.theta.requires_grad_()
    return Trainer(mix.view, torch.optim.AdamW([mix.theta], lr=1e-2), ids)


def peft_step(base: TextBase, ids: torch.Tensor) -> Trainer:
    """Stock PEFT's step: one LoRA of the same rank on the same layers. Alters the base's layers: measure it last."""
    model = get_peft_model(base.model, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Trainer(model, torch.optim.AdamW(trained, lr=1e-4), ids)


@dataclass(frozen=True, eq=False)
class Writing:
    """Writes with some variants: the preview of them all at once, or of one."""

    base: TextBase
    variants: Sequence[Sequence[Adapter]]
    tokens: int

    def __call__(self) -> None:
        """Write all groups' texts, one group after the other."""
        for group in self.variants:
            for _ in open_preview(self.base, group).generate("Once upon a time", None, Decoding(self.tokens)):
                pass


@dataclass(frozen=True, eq=False)
class Routing:
    """A whole run of ReMix: so many steps, the check before the first and after the last among them."""

    world: TextWorld
    shape: Shape
    settings: routing.Settings

    def __call__(self) -> None:
        """Train a fresh router."""
        learn_router(self.world, self.shape, self.settings)


def routing_run(base: TextBase, sources: Sequence[Adapter], size: Size) -> Routing:
    """The largest router there is: one in every block, that decides for each token."""
    shape = Shape(k=2, granularity="token", reads="layer")
    schedule = Schedule(steps=size.steps, batch=size.batch, check_every=size.steps)
    world = text_world(base, sources, skill_items(["math"], "train", 4 * size.batch, 0), shape)
    return Routing(world, shape, routing.Settings(samples=2, schedule=schedule))


def main() -> None:
    """Measure, print and, but for a toy, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="a tiny model anywhere, to check the code")
    size = TOY if parser.parse_args().toy else Size()
    if size is not TOY and not torch.cuda.is_available():
        print("No GPU: not measured. --toy checks the code.")
        return
    base = open_random(size)
    variants = [adapter(base, seed) for seed in range(VARIANTS)]
    ids = torch.randint(1, size.vocabulary, (size.batch, size.tokens), device=base.model.device)
    together = Writing(base, [variants], size.written)
    apart = Writing(base, [[variant] for variant in variants], size.written)
    found: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "parameters": base.model.num_parameters(),
        "cat": timed(cat_step(base, variants[:2], ids), size.steps),
        "preview_8_at_once": timed(together, 2),
        "preview_8_in_turn": timed(apart, 2),
        "remix_run": {**timed(routing_run(base, variants, size), 1), "steps": size.steps},
        "peft_lora": timed(peft_step(base, ids), size.steps),
    }
    print(json.dumps(found, indent=1))
    if size is not TOY:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
