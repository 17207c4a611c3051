"""Write kohya's sd-scripts format: `lora_unet_..._to_q.lora_down.weight`, `.lora_up.weight`, `.alpha`.

The scaling is folded into B and alpha is the rank, so every reader applies 1. UNets get one rank everywhere, because
diffusers 0.42 loses the alphas of attention layers where they differ. SDXL's UNet gets the original block
numbers, FLUX the original fused layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from studio.core.adapter import Adapter, LoraModule
from studio.core.errors import LoomError
from studio.core.tensors import Array
from studio.formats.containers.safetensors_file import SaveDtype, write_safetensors
from studio.formats.modules.names import canonical, table_lines
from studio.formats.modules.originals import fuse
from studio.formats.modules.pairs import folded, stored_shapes
from studio.formats.writers.registry import Writer

WEIGHTS = "lora.safetensors"
_PREFIXES = {
    "unet": "lora_unet_",
    "transformer": "lora_unet_",
    "text_encoder": "lora_te1_",
    "text_encoder_2": "lora_te2_",
}
_ONLY_TEXT_ENCODER = "lora_te_"  # of Stable Diffusion 1 and 2
_SDXL_CONTEXT = 2048  # width of what SDXL's cross-attention reads; 768 and 1024 in Stable Diffusion 1 and 2


def check(adapter: Adapter, base_config: Mapping[str, Any]) -> None:
    """Raise `LoomError` for models whose underscored names have no table."""
    if any(name.startswith("transformer.") for name in adapter.modules) and not _is_flux(adapter):
        why = f"the base is {adapter.base or 'not named and has no single_transformer_blocks'}"
        raise LoomError("the kohya format is written for Stable Diffusion, SDXL and FLUX", why, "export for diffusers")
    _spelled(adapter)


def write(adapter: Adapter, folder: Path, dtype: SaveDtype, base_config: Mapping[str, Any]) -> None:
    """Write the weights into an existing folder."""
    modules = _spelled(adapter)
    shapes: dict[str, tuple[int, ...]] = {}
    for spelling, module in modules.items():
        down, up = stored_shapes(module, _rank(adapter, module))
        shapes |= dict(zip(_keys(spelling), (down, up, ()), strict=True))
    rank = str(max(shapes[_keys(spelling)[0]][0] for spelling in modules))
    about = {"ss_network_module": "networks.lora", "ss_network_dim": rank, "ss_network_alpha": rank}
    write_safetensors(folder / WEIGHTS, shapes, _values(modules, shapes), dtype, {"format": "pt", **about})


KOHYA = Writer(
    "kohya",
    title="kohya",
    about="one file, for ComfyUI and sd-scripts",
    files=(WEIGHTS,),
    dialect="kohya",
    write=write,
    tested_with="diffusers",
    kinds=("linear", "conv"),
    models="image pipelines",
    check=check,
    besides="models other than Stable Diffusion, SDXL and FLUX",
)


def _values(modules: Mapping[str, LoraModule], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Array]]:
    for spelling, module in modules.items():
        down, up, alpha = _keys(spelling)
        rank = shapes[down][0]
        a, b = folded(module, rank)
        yield down, a.reshape(shapes[down])
        yield up, b.reshape(shapes[up])
        yield alpha, np.array(rank, np.float32)


def _rank(adapter: Adapter, module: LoraModule) -> int:
    """The rank to store: FLUX's fused layers keep their own, which may be a multiple."""
    return module.rank if _is_flux(adapter) else adapter.rank


def _keys(spelling: str) -> tuple[str, str, str]:
    return f"{spelling}.lora_down.weight", f"{spelling}.lora_up.weight", f"{spelling}.alpha"


def _spelled(adapter: Adapter) -> dict[str, LoraModule]:
    """The modules to write, by underscored name; each name must lead back to its module."""
    modules = fuse(adapter.modules) if _is_flux(adapter) else adapter.modules
    is_sdxl = _is_sdxl(adapter)
    prefixes = _PREFIXES if is_sdxl or _is_flux(adapter) else {**_PREFIXES, "text_encoder": _ONLY_TEXT_ENCODER}
    spelled: dict[str, LoraModule] = {}
    for name, module in modules.items():
        component, _, path = name.partition(".")
        prefix = prefixes.get(component)
        original = _ldm_paths().get(path, path) if component == "unet" and is_sdxl else path
        spelling = f"{prefix}{original.replace('.', '_')}"
        if prefix is None or canonical(spelling) != (name, True):
            raise LoomError(
                f"the kohya format has no name for {name}", "no table leads from its underscores back to it"
            )
        spelled[spelling] = module
    return spelled


def _is_sdxl(adapter: Adapter) -> bool:
    """By the second text encoder, or the width of the context that the UNet reads."""
    widths = {module.d_in for name, module in adapter.modules.items() if name.endswith(("attn2.to_k", "attn2.to_v"))}
    deep = any(".transformer_blocks.1." in name for name in adapter.modules if name.startswith("unet."))
    return deep or _SDXL_CONTEXT in widths or any(name.startswith("text_encoder_2.") for name in adapter.modules)


def _is_flux(adapter: Adapter) -> bool:
    """By its name, or where there is none by the single blocks; other transformers share the names of its layers."""
    if adapter.base is not None:
        return "flux" in adapter.base.lower()
    return any(name.startswith("transformer.single_transformer_blocks.") for name in adapter.modules)


@cache
def _ldm_paths() -> Mapping[str, str]:
    """diffusers' path -> original path of SDXL's UNet; where Stable Diffusion 1 differs, the table has SDXL's last."""
    return {name: original for original, name in (line.split() for line in table_lines("unet_ldm"))}
