"""Read one adapter out of a LoRWeB basis: `lorweb_model.safetensors#3` is its third, an ordinary LoRA of rank r.

Asked before every other dialect, because such a file looks like a diffusers one and would do nothing as such.
The basis as a whole is no adapter: a pair of pictures mixes it, which the analogy room does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from studio.core.account import TensorRow
from studio.core.adapter import Adapter, LoraModule
from studio.core.errors import Refused
from studio.core.tensors import Array, TensorRef
from studio.formats.containers.bundle import Bundle
from studio.formats.containers.lorweb_file import PARTS, base_of, check_layer, is_lorweb, modules_of, read_config
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.names import with_component
from studio.formats.modules.scaling import said

_SCALING = said(1.0, "LoRWeB has no alpha")
_MIXER = "that mix the basis by a pair of pictures"


def sniff(bundle: Bundle) -> str | None:
    """Evidence of a basis, or None."""
    if not is_lorweb(bundle.keys):
        return None
    return f"LoRWeB keys such as {next(key for key in bundle.keys if key.endswith('.lora_keys'))}"


def read(bundle: Bundle) -> Adapter:
    """Read the selected adapter, counted from 1.

    Raises `Refused` where none is selected, there is no such one, or the tensors do not fit together.
    """
    file, names = bundle.weights.name, modules_of(bundle.file)
    shapes = {name: check_layer(bundle.file, name, file) for name in names}
    size = min(shape[0] for shape in shapes.values())
    index = _index(bundle, size)
    modules = {}
    for name, (_, d_in, rank, d_out) in shapes.items():
        down, up = (bundle.tensors[f"{name}.{part}"] for part in ("lora_A", "lora_B"))
        full = with_component(name)
        modules[full] = LoraModule(
            full,
            rank,
            d_in,
            d_out,
            _SCALING.value,
            _Slice(down, up, index),
            dtype=down.dtype,
            origin="lorweb",
            keys=(down.key, up.key),
            source=_SCALING.source,
        )
    return Adapter(
        name=f"basis {index + 1}",
        modules=modules,
        base=base_of(read_config(bundle.weights)),
        metadata=bundle.metadata,
        path=bundle.path,
        tensors=tuple(
            TensorRow(f"{name}.{part}", "left out", why=_MIXER, is_harmless=True)
            for name in names
            for part in PARTS[2:]
        ),
    )


LORWEB = Dialect(
    "lorweb",
    title="LoRWeB",
    source="arXiv 2602.15727; hilamanor/lorweb on the Hub",
    keys="`.lora_keys`",
    scaling="1",
    names="`transformer.…`; `FILE#3` is the third adapter; the basis itself is refused, the analogy room opens it",
    sniff=sniff,
    read=read,
    several=True,
    also_claimed_by={
        "diffusers": "layers are named as diffusers names them",
        "peft": "factors are named as PEFT names them, and stacked",
    },
)


@dataclass(frozen=True, slots=True, eq=False)
class _Slice:
    """Loads the pair of one adapter out of the stacked tensors (N, n, r) and (N, r, m)."""

    down: TensorRef
    up: TensorRef
    index: int

    def __call__(self) -> tuple[Array, Array]:
        a, b = (tensor.rows(self.index, self.index + 1)[0].T for tensor in (self.down, self.up))
        return np.ascontiguousarray(a), np.ascontiguousarray(b)


def _index(bundle: Bundle, size: int) -> int:
    chosen = bundle.selected
    if chosen is None:
        raise Refused(
            "this is a LoRWeB basis, not one LoRA",
            f"it holds {size} adapters that a pair of pictures mixes ({sniff(bundle)})",
            f"make an analogy of it in the analogy room, or open one adapter alone: {bundle.path.name}#1 to #{size}",
        )
    if not (chosen.isascii() and chosen.isdigit() and 1 <= int(chosen[:9]) <= size):
        raise Refused(f"the basis has no adapter {chosen[:80]}", f"they are numbered 1 to {size}")
    return int(chosen) - 1
