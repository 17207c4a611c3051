"""Fused projections of decoders taken apart, exactly: qkv_proj into q, k and v, gate_up_proj into gate and up.

A part takes its rows of B and shares A. So adapters of a model that fuses them (Phi-3, Phi-4) compare, module by
module, with those of one that does not. Rows are in the order of the names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any

from studio.core.adapter import Adapter, LoraModule
from studio.core.errors import LoomError
from studio.formats.modules.base_config import head_size
from studio.formats.modules.pairs import PairRows

_QKV, _GATE_UP = "qkv_proj", "gate_up_proj"


def split_projections(adapter: Adapter, config: Mapping[str, Any]) -> Adapter:
    """The same adapter with fused projections replaced by their parts; `config` is the base model's config.json.

    Raises `LoomError` where the config does not say the sizes of the heads, or the rows do not divide so.
    """
    parts = (part for module in adapter.modules.values() for part in _parts(module, config))
    return replace(adapter, modules={part.name: part for part in parts})


def _parts(module: LoraModule, config: Mapping[str, Any]) -> Iterator[LoraModule]:
    stem, _, leaf = module.name.rpartition(".")
    if leaf == _QKV:
        sizes = _heads(module, config)
    elif leaf == _GATE_UP and module.d_out % 2 == 0:
        sizes = {"gate_proj": module.d_out // 2, "up_proj": module.d_out // 2}
    else:
        yield module
        return
    for (name, rows), end in zip(sizes.items(), accumulate(sizes.values()), strict=True):
        load = PairRows(module.load, slice(end - rows, end), slice(None))
        yield replace(module, name=f"{stem}.{name}", d_out=rows, load=load)


def _heads(module: LoraModule, config: Mapping[str, Any]) -> dict[str, int]:
    """The rows of q, k and v."""
    head, queries, keys = head_size(config), config.get("num_attention_heads"), config.get("num_key_value_heads")
    keys = queries if keys is None else keys
    if not head or not isinstance(queries, int) or not isinstance(keys, int):
        why = "the base's config.json does not say its heads"
        raise LoomError(f"{module.name} cannot be split", why, "give the folder of the whole model")
    if (queries + 2 * keys) * head != module.d_out:
        why = f"{queries} + 2 x {keys} heads of {head} rows are not {module.d_out}"
        raise LoomError(f"{module.name} cannot be split", why, "give the config.json of its own base")
    return {"q_proj": queries * head, "k_proj": keys * head, "v_proj": keys * head}
