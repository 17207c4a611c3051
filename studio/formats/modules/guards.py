"""What every adapter that was read is held to, whichever dialect read it: sound factors, and no tensor lost in silence.

The structure guards refuse what only looks like a pair: a square matrix stored twice (MoRA), matrices stored the other
way round, quantised numbers without their scale. The account says what became of each tensor of the file; a tensor
that stands under a pair's own path and is not understood changes that pair in a way nobody here knows, so the pair is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import takewhile

import numpy as np

from studio.core.account import TensorRow
from studio.core.adapter import Adapter, Finding, LoraModule
from studio.core.errors import Refused
from studio.core.tensors import TensorRef
from studio.formats.containers.bundle import Bundle
from studio.formats.modules.promised_ranks import promised_ranks
from studio.formats.modules.quantised import Dequantised

# Number formats whose values are what they say. GGUF's blocks (Q8_0, ...) hold their own scales.
_PLAIN = re.compile(r"F64|F32|F16|BF16|F8_E4M3|F8_E5M2|float8_e4m3fn|float8_e5m2|[IT]?Q\d.*|MXFP4")
# Modules whose rank is the inner size of two stored matrices; those of products are bounded by their construction.
_PAIRS = ("lora", "lorweb", "adalora")
# Full tensors of the base that PEFT and its kin save under the path of a layer that also has a pair.
_FULL = ("weight", "bias", "in_proj_weight", "in_proj_bias", "trainable_tokens_delta")
# Tensors beside a pair that leave its layer's weight alone, and the shape that the base's layer must have.
_BIASES = ("diff_b", "b_norm", "lora_B.bias", "lora_up.bias", "reshape_weight")
_PEFT_PAIR = (".lora_A", ".lora_B", ".lora_embedding_A", ".lora_embedding_B", ".lora_a", ".lora_b")
_UNKNOWN = "of no known kind"
_BESIDE = "a merge drops them, or carries them from one chosen source"
_EMPTY = "that are empty, saved under DeepSpeed ZeRO-3 (or FSDP) without gathering the weights,"


def check_structure(adapter: Adapter, found: Dequantised) -> None:
    """Refuse factors that are no numbers by themselves, and pairs that are none. Reads headers, but for one case."""
    promised, tensors, scaled = promised_ranks(found.bundle), found.bundle.tensors, set(found.scales.values())
    for module in adapter.modules.values():
        for key in module.keys:
            if key not in scaled:
                _check_dtype(module, tensors[key])
        if module.origin in _PAIRS:
            _check_rank(module, promised)


def accounted(adapter: Adapter, bundle: Bundle, found: Dequantised) -> Adapter:
    """The adapter with its account, and with findings that name what is left out, beside it, or scaled by a guess.

    Raises `Refused` where a tensor under a pair's own path is not understood.
    """
    extras = {name: tensor for name, tensor in adapter.extras.items() if 0 not in tensor.shape}
    rows = {row.key: row for row in (*found.left_out, *_rows(adapter, extras, found.scales))}
    rows |= {key: TensorRow(key, "left out", why=_UNKNOWN) for key in bundle.keys if key not in rows}
    _check_paths(adapter, rows)
    table = tuple(rows[key] for key in bundle.keys)
    lost, harmless = _left_out(table, is_harmless=False), _left_out(table, is_harmless=True)
    findings = (*_guesses(adapter, found), *lost, *_beside(adapter, extras), *adapter.findings, *harmless)
    return replace(adapter, extras=extras, tensors=table, findings=findings)


def _check_dtype(module: LoraModule, tensor: TensorRef) -> None:
    if _PLAIN.fullmatch(tensor.dtype) or tensor.size == 1:
        return
    raise Refused(
        f"{module.name} is stored as {tensor.dtype}",
        f"{tensor.key} is quantised, and no scale beside it says what its numbers mean",
        "save it as float32, float16 or bfloat16",
    )


def _check_rank(module: LoraModule, promised: frozenset[int]) -> None:
    """Refuse a pair whose rank says that its matrices are not A and B.

    A rank above min(d_in, d_out) is no proof: a LoRA of rank 128 on a layer of 64 channels is common, and adapters put
    one after another by `cat` exceed small models. So a rank that the file itself promises (config, header, alpha) is
    believed. Another rank, where the file promises one, is refused as soon as the layer cannot hold it; without any
    promise, when it exceeds both sides, as matrices stored the other way round do. MoRA's square matrix reads as a pair
    of full rank, stored twice: that is refused where another rank is promised, or where both halves are equal.
    """
    smaller, larger = sorted(module.shape)
    is_square = module.rank == smaller == larger
    if module.rank < smaller or (module.rank == smaller and not is_square) or module.rank in promised:
        return
    if not promised and (module.stored_alpha == module.rank or (module.rank <= larger and not _is_one_matrix(module))):
        return
    size = f"{module.d_out} x {module.d_in}"
    kind = (
        "one square matrix stored twice, as MoRA does"
        if is_square
        else "stored the other way round, or of another kind"
    )
    said = f"; the file promises {', '.join(map(str, sorted(promised)))}" if promised else ""
    raise Refused(
        f"{module.name} is not a low-rank pair",
        f"it would have rank {module.rank} on a layer of {size}{said}: {kind}",
        "save it as plain LoRA",
    )


def _is_one_matrix(module: LoraModule) -> bool:
    if not module.rank == module.d_in == module.d_out:
        return False
    a, b = module.load()
    return np.array_equal(a, b)


def _rows(adapter: Adapter, extras: Mapping[str, TensorRef], scales: Mapping[str, str]) -> Iterator[TensorRow]:
    """What the dialect and its modules say of the tensors, the stronger claim last."""
    yield from adapter.tensors
    for name, tensor in adapter.extras.items():
        yield TensorRow(tensor.key, "extra") if name in extras else TensorRow(tensor.key, "left out", why=_EMPTY)
    users: dict[str, list[str]] = {}
    for module in adapter.modules.values():
        for key in module.keys:
            users.setdefault(key, []).append(module.name)
    for key in (*users, *scales):
        names = users.get(scales.get(key, key))
        if names:
            yield TensorRow(key, "module", tuple(names))


def _check_paths(adapter: Adapter, rows: Mapping[str, TensorRow]) -> None:
    """Refuse the first tensor under a pair's own path that is no part of it and may touch its layer's weight."""
    paths = pair_paths(adapter)
    for key, row in rows.items():
        module = None if row.fate == "module" or row.is_harmless else touched(paths, key)
        if module is not None:
            raise Refused(
                f"{module.name} is not a plain low-rank pair",
                f"{key} stands under its path, and changes what the pair means",
                "save it as plain LoRA",
            )


def pair_paths(adapter: Adapter) -> dict[str, LoraModule]:
    """The modules by their own paths in the file."""
    return {path_of(module.keys): module for module in adapter.modules.values() if module.keys}


def touched(paths: Mapping[str, LoraModule], key: str) -> LoraModule | None:
    """The module under whose own path a tensor stands that may touch its weight, or None."""
    for end in (match.end() for match in re.finditer(r"[.:]", key)):
        module = paths.get(key[:end])
        if module is not None and not _is_apart(key[end:], module):
            return module
    return None


def path_of(keys: tuple[str, ...]) -> str:
    """A module's own path in its file: what its keys begin with, up to a separator."""
    first, last = min(keys), max(keys)
    equal = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    common = first if first == last else "".join(letter for letter, _ in equal)
    return common[: max(common.rfind("."), common.rfind(":")) + 1].removesuffix("weight.")


def _is_apart(rest: str, module: LoraModule) -> bool:
    """Whether the end of a key names a bias, or a full tensor of the base as PEFT saves it beside a pair."""
    is_pefts = any(ending in key for ending in _PEFT_PAIR for key in module.keys)
    is_full = is_pefts and rest.rpartition(".")[2] in _FULL and ".lora_" not in f".{rest}"
    return is_full or rest in _BIASES


def _guesses(adapter: Adapter, found: Dequantised) -> Iterator[Finding]:
    """One warning for each guess at a scaling, and one for 8-bit floats without a scale."""
    guessed = {module.source.text: module.name for module in adapter.modules.values() if module.source.is_default}
    for text, name in guessed.items():
        yield Finding("warn", text, None if len(guessed) == 1 else name)
    if found.unscaled:
        text = (
            f"{len(found.unscaled)} tensors are stored in 8 bits without a scale ({found.unscaled[0]}): read as plain"
        )
        yield Finding("warn", f"{text} numbers")


def _beside(adapter: Adapter, extras: Mapping[str, TensorRef]) -> Iterator[Finding]:
    if extras and not any(next(iter(extras)) in finding.text for finding in adapter.findings):
        some = ", ".join(list(extras)[:4])
        yield Finding("warn", f"{len(extras)} full tensors are stored with the LoRA ({some}): {_BESIDE}")


def _left_out(rows: tuple[TensorRow, ...], is_harmless: bool) -> Iterator[Finding]:
    """One finding for each reason."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.fate == "left out" and row.is_harmless == is_harmless:
            reasons.setdefault(row.why, []).append(row.key)
    for why, keys in reasons.items():
        yield Finding(
            "note" if is_harmless else "warn", f"{len(keys)} tensors {why} are left out ({', '.join(keys[:4])})"
        )
