"""Adapters that are not W + s B A, by what names them: PEFT's type, the parameters of its layers, a trainer's flag.

Source: huggingface/peft (PeftType and the layers of each tuner), KohakuBlueleaf/LyCORIS.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from studio.core.errors import Refused

# PeftType -> the name of the method. Its parameters begin with the type in lower case; the next table has the others.
PEFT_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "ADALORA": "AdaLoRA",
        "ADAMSS": "AdaMSS",
        "ADAPTION_PROMPT": "an adaption prompt (LLaMA-Adapter)",
        "BEFT": "BEFT",
        "BOFT": "BOFT",
        "BONE": "Bone",
        "C3A": "C3A",
        "CARTRIDGE": "a cartridge",
        "CPT": "context-aware prompt tuning",
        "DEFT": "DEFT",
        "DELORA": "DeLoRA",
        "FOURIERFT": "FourierFT",
        "FROD": "FRoD",
        "GLORA": "GLoRA",
        "GRALORA": "GraLoRA",
        "HIRA": "HiRA",
        "HRA": "HRA",
        "IA3": "IA3",
        "LILY": "Lily",
        "LN_TUNING": "LayerNorm tuning",
        "MISS": "MiSS",
        "MULTITASK_PROMPT_TUNING": "multitask prompt tuning",
        "OFT": "OFT",
        "OSF": "OSF",
        "PEANUT": "PEANuT",
        "POLY": "Poly",
        "PREFIX_TUNING": "prefix tuning",
        "PROMPT_TUNING": "prompt tuning",
        "PSOFT": "PSOFT",
        "PVERA": "PVeRA",
        "P_TUNING": "p-tuning",
        "RANDLORA": "RandLora",
        "ROAD": "RoAd",
        "SHADOW": "Shadow",
        "SHIRA": "SHiRA",
        "SUPERTUNING": "Supertuning",
        "TINYLORA": "TinyLoRA",
        "TRAINABLE_TOKENS": "trainable tokens",
        "UNILORA": "Uni-LoRA",
        "VBLORA": "VB-LoRA",
        "VERA": "VeRA",
        "WAVEFT": "WaveFT",
        "XLORA": "X-LoRA",
    }
)
_PARAMETERS: Mapping[str, str] = MappingProxyType(
    {
        "lora_E": "AdaLoRA",
        "ranknum": "AdaLoRA",
        "lora_magnitude_vector": "DoRA",
        "dora_scale": "DoRA",
        "lora_diag": "KaSA",
        "prompt_embeddings": "prompt tuning",
        "q_layer": "T-LoRA",
        "p_layer": "T-LoRA",
        "lambda_layer": "T-LoRA",
        "oft_blocks": "OFT",
        "oft_diag": "OFT",
    }
)
# Flags of trainers that keep PEFT's type LORA and mean something else.
_FLAGS: Mapping[str, str] = MappingProxyType({"use_mora": "MoRA", "use_hira": "HiRA", "use_vera": "VeRA"})


def kind_of_type(peft_type: str) -> str:
    """The name of PEFT's kind of adapter."""
    return PEFT_TYPES.get(peft_type.upper(), peft_type[:40])


def kind_of_flag(field: str) -> str:
    """What a config's unknown flag stands for: a method's name, or the flag itself."""
    return _FLAGS.get(field, f"LoRA with {field[:60]}")


def kind_of_keys(keys: Collection[str]) -> tuple[str, str] | None:
    """The kind that the first telling key belongs to, and that key; None where no key tells.

    To be asked of what is no pair: a module of a model may be called `road_encoder`.
    """
    return next(((kind, key) for key in keys if (kind := _kind_of_key(key))), None)


def refusal_by_name(keys: Collection[str]) -> Refused | None:
    """The refusal of what these keys tell to be another kind of adapter, or None."""
    found = kind_of_keys(keys)
    if found:
        kind, key = found
        return Refused(f"this is {kind}, not LoRA", f"it holds {key}", instead_of(kind))
    share = next((key for key in keys if "_flat_param" in key), None)
    if share:
        what = "this is one process's share of a sharded model (FSDP), not an adapter"
        return Refused(what, f"it holds {share}", "gather the whole state dict before saving")
    return None


def no_pairs(name: str, keys: Collection[str]) -> Refused:
    """What to say of a file without a pair: which kind it is, or what its keys are like."""
    like = f"its keys are like {next(iter(keys), '(none)')}"
    return refusal_by_name(keys) or Refused(f"{name} holds no LoRA pairs", like, "check the file")


def instead_of(kind: str) -> str:
    """What a person can do with another kind of adapter."""
    if kind == "DoRA":
        return "with the weights of its base, studio.formats.open_dora(adapter, base) reads it exactly"
    if kind == "T-LoRA":
        return "its update is counted from its start, which the file does not hold: merge it where it was trained"
    if any(word in kind for word in ("prompt", "p-tuning", "prefix", "tokens", "cartridge", "LayerNorm")):
        return "train a LoRA instead"
    return "convert it to plain LoRA (PEFT: peft.convert_to_lora), or train without it"


def _kind_of_key(key: str) -> str | None:
    """By one of the last three segments, as `module.vera_lambda_b.default.weight`."""
    segments = key.split(".")[-3:]
    named = next((_PARAMETERS[segment] for segment in segments if segment in _PARAMETERS), None)
    prefixes = ((kind, f"{prefix.lower()}_") for prefix, kind in PEFT_TYPES.items() if prefix != "TRAINABLE_TOKENS")
    return named or next(
        (kind for kind, prefix in prefixes if any(segment.startswith(prefix) for segment in segments)), None
    )
