"""What a base model's config.json says that an adapter file does not: its architecture and the size of its heads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.core.hub_ids import hub_id_or_none
from studio.formats.containers.bundle import read_config


def head_size(config: Mapping[str, Any]) -> int | None:
    """Rows of one attention head (head_dim, else hidden_size / num_attention_heads), or None where it is not said."""
    head, hidden, heads = (_count(config, key) for key in ("head_dim", "hidden_size", "num_attention_heads"))
    return head or (hidden // heads if heads else 0) or None


def cached_base_config(base: str | None) -> Mapping[str, Any]:
    """The config of a Hub model from the local cache; nothing is fetched, and without it the result is empty."""
    hub_id = hub_id_or_none(base)
    if hub_id is None:
        return {}
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "config.json")
    return read_config(Path(found)) if isinstance(found, str) else {}


def _count(config: Mapping[str, Any], key: str) -> int:
    """A whole number of the config, or 0 where it is not one."""
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 1 << 20 else 0
