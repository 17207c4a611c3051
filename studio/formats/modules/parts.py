"""Take the keys of diffusion adapters apart: which module, and which of its tensors.

Every trainer has its own ending for the same two matrices.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from studio.core.errors import Refused
from studio.core.tensors import TensorRef

# Ending of the key -> role of the tensor. Longer endings come before those that they contain.
_ENDINGS: tuple[tuple[str, str], ...] = (
    (".lora_linear_layer.down.weight", "down"),
    (".lora_linear_layer.up.weight", "up"),
    (".lora_A.default.weight", "down"),
    (".lora_B.default.weight", "up"),
    ("lora_down.weight", "down"),
    ("lora_up.weight", "up"),
    ("lora_mid.weight", "mid"),
    ("lora.down.weight", "down"),
    ("lora.up.weight", "up"),
    (".lora_A.weight", "down"),
    (".lora_B.weight", "up"),
    (".lora_A", "down"),
    (".lora_B", "up"),
    (".alpha", "alpha"),
    (".dora_scale", "dora_scale"),
    (".lora_magnitude_vector", "dora_scale"),
    (".magnitude", "dora_scale"),
    *((f".{part}", part) for part in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")),
    *(
        (f".{part}", part)
        for part in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
    ),
)
# Endings of tensors that are no low-rank pair, and the kind that they belong to.
OTHER_KINDS: Mapping[str, str] = {
    ".oft_blocks": "OFT",
    ".oft_diag": "OFT",
    ".rescale": "OFT",
    ".q_layer.weight": "T-LoRA",
    ".p_layer.weight": "T-LoRA",
    ".lambda_layer": "T-LoRA",
    ".on_input": "IA3",
    ".a1.weight": "GLoRA",
    ".a2.weight": "GLoRA",
    ".b1.weight": "GLoRA",
    ".b2.weight": "GLoRA",
    ".diff": "full difference",
    ".diff_b": "bias difference",
    ".w_norm": "norm",
    ".b_norm": "norm",
    ".set_weight": "replaced weight",
    ".reshape_weight": "shape of a widened layer",
    ".lora_B.bias": "LoRA bias",
}
# A layer's whole difference can be read exactly; those of norms and biases have other dimensions and are left out.
_DIFF, _OF_LAYERS = ".diff", (2, 4, 5)
# XLabs numbers its pairs within a processor; the number stays in the module's spelling.
_XLABS = re.compile(r"(.+\.processor\.(?:qkv|proj)_lora[12]?)\.(down|up)\.weight")
Parts = Mapping[str, TensorRef]


@dataclass(frozen=True, slots=True)
class Grouped:
    """A file's tensors by the module's own spelling, then by role; what is no low-rank part; what is unknown.

    `orphans` are alphas without a module: those of other kinds, or what a tool left when it took a text encoder out.
    """

    modules: dict[str, dict[str, TensorRef]] = field(default_factory=dict)
    other_kinds: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, TensorRef] = field(default_factory=dict)
    orphans: dict[str, TensorRef] = field(default_factory=dict)


def split_key(key: str) -> tuple[str, str] | None:
    """(module as spelled, role) of a key, or None where its ending is not known."""
    numbered = _XLABS.fullmatch(key)
    if numbered:
        return numbered[1], numbered[2]
    for ending, role in _ENDINGS:
        if key.endswith(ending) and len(key) > len(ending):
            return key[: -len(ending)].rstrip("._"), role
    return None


def group(tensors: Mapping[str, TensorRef]) -> Grouped:
    """Sort a file's tensors by module and role. Raises `Refused` where one role is given twice."""
    found = Grouped()
    for key, tensor in tensors.items():
        whole = key.endswith(_DIFF) and len(tensor.shape) in _OF_LAYERS
        kind = None if whole else next((name for ending, name in OTHER_KINDS.items() if key.endswith(ending)), None)
        split = (key.removesuffix(_DIFF), "diff") if whole else None if kind else split_key(key)
        if kind:
            found.other_kinds[key] = kind
        elif split is None:
            found.unknown[key] = tensor
        elif split[1] in found.modules.setdefault(split[0], {}):
            raise Refused(
                f"{split[0]} appears twice in the file", f"the second time as {key}", "save one adapter a file"
            )
        else:
            found.modules[split[0]][split[1]] = tensor
    for spelling in [spelling for spelling, parts in found.modules.items() if parts.keys() == {"alpha"}]:
        found.orphans[spelling] = found.modules.pop(spelling)["alpha"]
    return found


def alpha_of(module: str, parts: Parts) -> float | None:
    """The value of a module's alpha tensor, if it has one."""
    if "alpha" not in parts:
        return None
    if parts["alpha"].size != 1:
        raise Refused(f"{module}: alpha has shape {list(parts['alpha'].shape)}", "expected a single number")
    alpha = float(parts["alpha"].read().reshape(()))
    if not math.isfinite(alpha):
        raise Refused(f"{module}: alpha is {alpha}", next="correct the file")
    return alpha
