"""Random adapters with the shapes of real models, and measures of time and memory, for the benchmarks."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter, process_time

import numpy as np
import torch

from studio.core.adapter import Adapter, LoraModule
from studio.core.tensors import Array


@dataclass(frozen=True)
class Shape:
    """A Llama by its widths: (d_out, d_in) of the seven linear modules of each layer."""

    layers: int
    width: int
    key_width: int
    hidden: int

    def modules(self) -> Iterator[tuple[str, int, int]]:
        """(name, d_out, d_in), layer by layer."""
        attention = {"q": self.width, "k": self.key_width, "v": self.key_width, "o": self.width}
        for layer in range(self.layers):
            for name, d_out in attention.items():
                yield f"model.layers.{layer}.self_attn.{name}_proj", d_out, self.width
            yield f"model.layers.{layer}.mlp.gate_proj", self.hidden, self.width
            yield f"model.layers.{layer}.mlp.up_proj", self.hidden, self.width
            yield f"model.layers.{layer}.mlp.down_proj", self.width, self.hidden


LLAMA_8B = Shape(32, 4096, 1024, 14336)
EMBEDDED = Shape(8, 256, 256, 704)


@dataclass(eq=False)
class Clock:
    """Seconds spent in making random numbers, which no merge is to blame for: by the clock, and of the processor."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Drawn:
    """Loads a random pair, the same each time and never kept: A (rank, d_in), B (d_out, rank), norm of B A about 1."""

    seed: tuple[int, int]
    rank: int
    d_out: int
    d_in: int
    clock: Clock = field(default_factory=Clock)

    def __call__(self) -> tuple[Array, Array]:
        """A and B."""
        started, cpu = perf_counter(), process_time()
        rng = np.random.default_rng(self.seed)
        a = rng.standard_normal((self.rank, self.d_in), np.float32) / np.float32(self.d_in**0.5)
        b = rng.standard_normal((self.d_out, self.rank), np.float32) / np.float32(self.d_out**0.5)
        self.clock.seconds += perf_counter() - started
        self.clock.cpu_seconds += process_time() - cpu
        return a, b


def adapter(number: int, shape: Shape, rank: int, clock: Clock, only: str = "") -> Adapter:
    """A random adapter that holds no values: each module draws its own when it is read; `only` keeps some of them."""
    modules = {}
    for index, (name, d_out, d_in) in enumerate(shape.modules()):
        if only in name:
            drawn = Drawn((number, index), rank, d_out, d_in, clock)
            modules[name] = LoraModule(name, rank, d_in, d_out, 1.0, drawn)
    return Adapter(f"random {number}", modules, "peft", "made for a benchmark")


@dataclass(frozen=True)
class Spent:
    """Median seconds of a piece of work: by the clock, and of the processor, which neighbours disturb less."""

    wall: float
    cpu: float


def timed(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Spent]:
    """Time each piece of work in turn, `repeats` rounds after one to warm up, so that a busy spell hits all alike."""
    rounds: dict[str, list[Spent]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            wall, cpu = perf_counter(), process_time()
            work()
            rounds[name].append(Spent(perf_counter() - wall, process_time() - cpu))
    return {
        name: Spent(median(spent.wall for spent in taken[1:]), median(spent.cpu for spent in taken[1:]))
        for name, taken in rounds.items()
    }


def peak_memory() -> int:
    """The most memory this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine() -> dict[str, float | int]:
    """What the figures depend on."""
    return {"cores": os.cpu_count() or 0, "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 2)}
