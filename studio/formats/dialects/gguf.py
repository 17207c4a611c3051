"""Read GGUF adapters of llama.cpp: `blk.0.attn_q.weight.lora_a` stored (rank, d_in), `.lora_b` (d_out, rank).

Scaling is alpha / rank with one alpha for the file; alpha 0 means 1. Names go back to transformers' by
keys/gguf.txt. Llama's kin keep the rows of q and k in another order, which the head size undoes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

from studio.core.adapter import Adapter, Finding, LoraModule
from studio.core.errors import Refused
from studio.core.tensors import Array, TensorRef
from studio.formats.containers.bundle import Bundle
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.base_config import cached_base_config, head_size
from studio.formats.modules.heads import unpermuted
from studio.formats.modules.names import table_lines
from studio.formats.modules.other_kinds import no_pairs
from studio.formats.modules.pairs import require_both_halves, stored_module
from studio.formats.modules.scaling import by_alpha, said

ALPHA = "adapter.lora.alpha"
ARCHITECTURE = "general.architecture"
BASE_URL = "general.base_model.0.repo_url"
_WITHOUT_ALPHA = said(1.0, f"llama.cpp's rule where {ALPHA} is 0")
HUB = "https://huggingface.co/"
# Architectures whose q and k rows llama.cpp reorders, from halves of each head to pairs (LlamaModel.permute).
PERMUTED = ("llama", "granite", "smollm3", "arcee")
PERMUTED_TENSORS = ("attn_q", "attn_k")
_EMBEDDING = "token_embd"
_NUMBER = re.compile(r"(?<=\.)\d{1,4}(?=\.)")


class Names(NamedTuple):
    """Both ways between GGUF's names and transformers' for one architecture; `{}` stands for the layer's number."""

    to_base: Mapping[str, str]
    to_gguf: Mapping[str, str]


def sniff(bundle: Bundle) -> str | None:
    """Evidence that it is a GGUF file, or None."""
    if ARCHITECTURE not in bundle.metadata:
        return None
    return f"GGUF of type {bundle.metadata.get('general.type', 'model')[:40]}"


def read(bundle: Bundle) -> Adapter:
    """Read every pair. Raises `Refused` for models, other kinds, unknown architectures, and q or k of no head size."""
    architecture = bundle.metadata[ARCHITECTURE]
    _require_lora(bundle)
    names = names_of(architecture)
    downs, ups, extras = _halves(bundle.tensors)
    require_both_halves(downs, ups)
    if not downs:
        raise no_pairs(bundle.name, bundle.keys)
    alpha, base = _alpha(bundle.metadata), _base(bundle.metadata)
    modules: dict[str, LoraModule] = {}
    heads = _head_size(bundle, base) if architecture in PERMUTED and any(map(is_permuted, downs)) else 0
    for stored, down in downs.items():
        name = renamed(stored, names.to_base)
        if name is None:
            raise Refused(f"{stored} has no counterpart in transformers", f"the architecture is {architecture}")
        module = _module(name, down, ups[stored], alpha, stored == _EMBEDDING)
        if name in modules:
            raise Refused(
                f"{name} appears twice in the file", f"the second time as {stored}", "save one adapter a file"
            )
        modules[name] = unpermuted(module, heads) if heads and is_permuted(stored) else module
    return Adapter(
        name=bundle.name,
        modules=modules,
        base=base,
        findings=tuple(_findings(bundle.metadata)),
        extras=extras,
        metadata=bundle.metadata,
        path=bundle.path,
    )


GGUF = Dialect(
    "gguf",
    title="llama.cpp",
    source="ggml-org/llama.cpp, convert_lora_to_gguf.py and src/llama-adapter.cpp",
    keys="the magic `GGUF`",
    scaling="alpha / r, 1 where alpha is 0",
    names="transformers' names, by a table; q and k rows of Llama's kin put back in order",
    sniff=sniff,
    read=read,
    tested_with="gguf",
)


@cache
def names_of(architecture: str) -> Names:
    """The table of an architecture; raises `Refused` for one that llama.cpp converts by more than renaming."""
    rows = [line.split() for line in table_lines("gguf")]
    pairs = [(stored, name) for owner, stored, name in rows if owner == architecture]
    if not pairs:
        known = ", ".join(sorted({owner for owner, *_ in rows}))
        raise Refused(f"GGUF adapters of {architecture[:40]} are not known here", f"known are {known}")
    return Names(dict(pairs), {name: stored for stored, name in pairs})


def renamed(name: str, table: Mapping[str, str]) -> str | None:
    """The other name of a layer, or None where the table has none."""
    number = _NUMBER.search(name)
    found = table.get(_NUMBER.sub("{}", name, count=1))
    return None if found is None else found.format(number[0] if number else "")


def is_permuted(stored: str) -> bool:
    """Whether a GGUF name is one whose rows Llama's kin reorder."""
    return stored.rpartition(".")[2] in PERMUTED_TENSORS


@dataclass(frozen=True, slots=True, eq=False)
class _EmbeddingPair:
    """Reads an embedding's pair: A is stored by token, (vocabulary, rank)."""

    down: TensorRef
    up: TensorRef

    def __call__(self) -> tuple[Array, Array]:
        return self.down.read().T, self.up.read()


def _require_lora(bundle: Bundle) -> None:
    kind, adapter = bundle.metadata.get("general.type"), bundle.metadata.get("adapter.type")
    if kind != "adapter":
        raise Refused(f"{bundle.name} is a GGUF model, not an adapter", f"its general.type is {str(kind)[:40]}")
    if adapter != "lora":
        raise Refused(f"this is {str(adapter)[:40]}, not LoRA", "its adapter.type says so")


def _halves(
    tensors: Mapping[str, TensorRef],
) -> tuple[dict[str, TensorRef], dict[str, TensorRef], dict[str, TensorRef]]:
    downs: dict[str, TensorRef] = {}
    ups: dict[str, TensorRef] = {}
    extras: dict[str, TensorRef] = {}
    targets = {"weight.lora_a": downs, "weight.lora_b": ups}
    for key, tensor in tensors.items():
        name, _, ending = key.rpartition(".weight.")
        target = targets.get(f"weight.{ending}", extras) if name else extras
        target[key if target is extras else name] = tensor
    return downs, ups, extras


def _module(name: str, down: TensorRef, up: TensorRef, alpha: float, is_embedding: bool) -> LoraModule:
    shape = down.shape[::-1] if is_embedding and len(down.shape) == 2 else down.shape
    if len(shape) != 2 or len(up.shape) != 2:
        kind = "LoRA on fused experts, not plain LoRA" if len(shape) == 3 else "not a low-rank pair"
        raise Refused(f"{name} is {kind}", f"its shapes are {list(down.shape)} and {list(up.shape)}")
    scaling = by_alpha(alpha, shape[0], ALPHA) if alpha and shape[0] else _WITHOUT_ALPHA
    module = stored_module(name, replace(down, shape=shape), up, scaling, "embedding" if is_embedding else None)
    return replace(module, load=_EmbeddingPair(down, up)) if is_embedding else module


def _head_size(bundle: Bundle, base: str | None) -> int:
    """Rows of one attention head: from the file, from the base's config beside it, or from the Hub's cache."""
    stored = bundle.metadata.get(f"{bundle.metadata[ARCHITECTURE]}.attention.key_length", "")
    if stored.isdigit() and 0 < int(stored) <= 1 << 16:
        return int(stored)
    found = head_size(bundle.base_config) or head_size(cached_base_config(base))
    if found is None:
        raise Refused(
            f"{bundle.name} adapts q or k, whose rows GGUF reorders by head",
            "it does not say how large its base's heads are",
            "put the base's config.json beside it",
        )
    return found


def _alpha(metadata: Mapping[str, str]) -> float:
    try:
        alpha = float(metadata.get(ALPHA, "0"))
    except ValueError:
        alpha = math.nan
    if not math.isfinite(alpha) or abs(alpha) > 1e12:
        raise Refused(f"the file's {ALPHA} is {metadata[ALPHA][:40]!r}", "expected a finite number")
    return alpha


def _base(metadata: Mapping[str, str]) -> str | None:
    url = metadata.get(BASE_URL, "")
    return url.removeprefix(HUB) if url.startswith(HUB) else metadata.get("general.base_model.0.name") or None


def _findings(metadata: Mapping[str, str]) -> list[Finding]:
    if "adapter.alora.invocation_tokens" not in metadata:
        return []
    return [Finding("warn", "activated LoRA: trained to act only after certain tokens; a merge applies it always")]
