"""Read LyCORIS files (LoHa, LoKr, LoCon) and PEFT's own LoHa and LoKr, exactly as low rank.

Other kinds are refused by name, or left out with a warning where they stand beside low-rank modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from studio.core.adapter import Adapter, Finding, LoraModule
from studio.formats.containers.bundle import Bundle
from studio.formats.dialects.registry import Dialect
from studio.formats.modules.names import kernels
from studio.formats.modules.parts import Parts
from studio.formats.modules.patterns import wrapped_names
from studio.formats.modules.peft_config import PeftConfig, read_peft_config
from studio.formats.modules.pipeline import read_pipeline
from studio.formats.modules.scaling import Scaling

_SD1_TEXT_WIDTH = 768


def sniff(bundle: Bundle) -> str | None:
    """Evidence of a kind that LyCORIS writes, or None."""
    for key in bundle.keys:
        if (
            ".hada_" in key
            or ".lokr_" in key
            or key.endswith((".oft_blocks", ".a1.weight", ".on_input", ".w_norm", ".diff"))
        ):
            return f"LyCORIS keys such as {key}"
    return None


def read(bundle: Bundle) -> Adapter:
    """Read every module that is low rank. Raises `Refused` where none is, and for DoRA."""
    if bundle.config is None:
        adapter = read_pipeline(bundle)
    else:
        config = _peft_config(bundle.config)
        adapter = replace(read_pipeline(bundle, partial(_scaling, config)), base=config.base)
    modules = _with_kernels(adapter.modules)
    return replace(adapter, modules=modules, findings=(*adapter.findings, *_origins(modules)))


LYCORIS = Dialect(
    "lycoris",
    title="LyCORIS; PEFT's LoHa and LoKr",
    source="KohakuBlueleaf/LyCORIS, lycoris/modules",
    keys="`hada_…`, `lokr_…`",
    scaling="alpha / r of the stored factors",
    names="as those of `kohya` and `diffusers`",
    sniff=sniff,
    read=read,
    tested_with="PEFT, for its own LoHa and LoKr",
    also_claimed_by={
        "kohya": "modules are named as kohya names them; the parts tell",
        "peft": "PEFT's own LoHa and LoKr have a config with peft_type",
    },
)


def _peft_config(config: Mapping[str, object]) -> PeftConfig:
    """LoHaConfig and LoKrConfig say alpha where LoraConfig says lora_alpha."""
    own = {"peft_type": "LORA"} if config.get("peft_type") in ("LOHA", "LOKR") else {}
    return read_peft_config({**config, **own, "lora_alpha": config.get("alpha", config.get("lora_alpha"))})


def _scaling(config: PeftConfig, spelling: str, parts: Parts) -> Scaling | None:
    """PEFT divides alpha by the configured rank, also where a factor is stored whole."""
    names = wrapped_names(spelling)
    rank = config.expected_rank(*names)
    return None if rank is None or config.alpha is None or "alpha" in parts else config.scaling(rank, *names)


def _with_kernels(modules: Mapping[str, LoraModule]) -> dict[str, LoraModule]:
    """LoKr may store a convolution flat; the base model's table gives its kernel back.

    Only Stable Diffusion 1 projects into and out of attention by 1x1 convolutions; later versions use linear layers.
    """
    widths = {module.d_in for name, module in modules.items() if name.endswith("attn2.to_k")}
    linear_projections = bool(widths) and _SD1_TEXT_WIDTH not in widths
    restored: dict[str, LoraModule] = {}
    for name, module in modules.items():
        kernel = kernels().get(name)
        if kernel == (1, 1) and linear_projections and name.endswith(("proj_in", "proj_out")):
            kernel = None
        flat_conv = kernel is not None and module.kernel is None and module.d_in % (kernel[0] * kernel[1]) == 0
        restored[name] = replace(module, kind="conv", kernel=kernel) if flat_conv else module
    return restored


def _origins(modules: Mapping[str, LoraModule]) -> list[Finding]:
    by_origin: dict[str, int] = {}
    for module in modules.values():
        by_origin[module.origin] = by_origin.get(module.origin, 0) + 1
    converted = [f"{count} {origin}" for origin, count in by_origin.items() if origin != "lora"]
    if not converted:
        return []
    ranks = max(module.rank for module in modules.values())
    text = f"{', '.join(converted)} modules are read exactly as low rank, up to rank {ranks}"
    return [Finding("note", text)]
