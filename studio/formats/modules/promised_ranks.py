"""The ranks that a file itself promises, wherever its trainer writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from studio.formats.containers.bundle import Bundle

_FIELDS = ("r", "init_r", "rank", "linear", "conv")
_HEADER = ("ss_network_dim", "ss_conv_dim")
_IN_HEADER = ("lora_adapter_metadata", "ss_network_args")  # JSON: diffusers' configs, the arguments of kohya's network


def promised_ranks(bundle: Bundle) -> frozenset[int]:
    """Every whole number that the config or the header gives as a rank; empty where nothing does."""
    settings = [bundle.config or {}, *(_loaded(bundle.metadata.get(key)) for key in _IN_HEADER)]
    header = {key: bundle.metadata.get(key) for key in _HEADER}
    found = (number for given in (*settings, header) for number in _ranks(given))
    return frozenset(number for number in found if number > 0)


def _ranks(settings: Mapping[str, Any]) -> Iterator[int]:
    for key, value in settings.items():
        field = key.rpartition(".")[2]
        if field in (*_FIELDS, *_HEADER, "conv_dim", "conv_rank"):
            yield from _number(value)
        elif field == "rank_pattern" and isinstance(value, dict):
            yield from (number for rank in value.values() for number in _number(sum(rank) if _mask(rank) else rank))
        elif field == "lora_parameters" and isinstance(value, dict):
            yield from _number(value.get("rank"))


def _number(value: object) -> Iterator[int]:
    """A rank as JSON has it, or as the text of a header."""
    if (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 8) or (
        isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value)
    ):
        yield int(value)


def _mask(value: object) -> bool:
    """AdaLoRA's pattern says of each rank whether it was kept."""
    return isinstance(value, list) and all(isinstance(kept, bool) for kept in value)


def _loaded(text: str | None) -> Mapping[str, Any]:
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
