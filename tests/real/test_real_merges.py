"""Every group of real adapters that fit together, by every method, against dense float64 references.

All modules for the methods whose reference is a few matrix products; three modules of each group (first, middle, last)
for those that need eigenvectors or sorting of dense matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from studio import merge, methods, open_adapter
from studio.core.adapter import Adapter
from tests.references import expected

pytestmark = pytest.mark.slow
TOLERANCE = 1e-5
ROUNDING = 1e-7  # of float32 factors
# "Groups that merge together" of SOURCES.md, without toy-peft/reject-adalora, which is no LoRA and refused.
GROUPS = {
    "distilgpt2": ("distilgpt2/run-a", "distilgpt2/run-b"),
    "gemma": ("gemma-3-270m-it/svg-r4", "gemma-3-270m-it/svg-r4-seed123", "gemma-3-270m-it/logo-r4-zouhe"),
    "gpt2-attn": (
        "gpt2/cls-attn-r8-lmhan",
        "gpt2/cls-attn-r8-britter",
        "gpt2/cls-attn-r8-anirudh",
        "gpt2/cls-attn-r4-sukhman",
        "gpt2/attn-r8-fegbewunmi",
        "gpt2/causal-attn-r8-ckpt500",
        "gpt2/causal-attn-r8-ckpt7500",
    ),
    "gpt2-attnproj": (
        "gpt2/skill-math",
        "gpt2/skill-med",
        "gpt2/skill-finance",
        "gpt2/skill-story",
        "gpt2/cls-attnproj-deepbiolab",
        "gpt2/cls-attnproj-gurvineet",
    ),
    "roberta": ("roberta-base/agnews-r2-ckpt500", "roberta-base/agnews-r2-ckpt2400"),
    "sam": ("sam-vit-b/rank2", "sam-vit-b/rank4", "sam-vit-b/rank4-earlier", "sam-vit-b/rank8"),
    "sd15-diffusers": (
        "sd-v1-5/diffusers-skope",
        "sd-v1-5/diffusers-mvclab",
        "sd-v1-5/diffusers-timohavdk-2100",
    ),
    "sd15-cloneofsimo": ("sd-v1-5/svd-analog-r4", "sd-v1-5/disney"),
    "sd15-lokr": ("sd-v1-5/lokr-falcon-8", "sd-v1-5/lokr-falcon-16"),
    "sd2": ("sd-v2/illust-pt", "sd-v2/pop-pt"),
    "smollm2": ("smollm2-360m/ml-tutor", "smollm2-360m/odd-double-prefix"),
    "toy": ("toy-peft/lora-mlp", "toy-peft/lora-mlp-modules-to-save"),
    "vit": ("vit-base-patch16-224/food-r16", "vit-base-patch16-224/in21k-r8"),
    "whisper": ("whisper-base/dysarthric", "whisper-base/dysarthric-full"),
    # One that only overlaps: 12 of its sources' 36 modules are shared.
    "gpt2-overlap": ("gpt2/skill-math", "gpt2/causal-attn-r8-ckpt7500", "gpt2/cls-attn-r8-lmhan"),
}
WEIGHTS = (0.8, -0.5, 1.2, 0.3, -0.1, 1.0, 0.6)
WHOLE = ("cat", "slerp", "linear", "lego")  # their references are a few matrix products
SAMPLED = "sd15-lokr"  # 350 modules of rank 64 and 256: three of them for every method


def sources_of(root: Path, group: str, id: str) -> tuple[list[Adapter], list[float]]:
    """As many of the group's adapters as the method takes, and their weights, positive where it needs them so."""
    adapters = [open_adapter(root / "loras" / name) for name in GROUPS[group]]
    names = list(dict.fromkeys(name for adapter in adapters for name in adapter.modules))
    if id not in WHOLE or group == SAMPLED:
        names = list(dict.fromkeys((names[0], names[len(names) // 2], names[-1])))
    adapters = [adapter for source in adapters if (adapter := only(source, names)).modules]
    adapters = adapters[: methods()[id].max_sources or len(adapters)]
    weights = WEIGHTS[: len(adapters)]
    return adapters, [*weights] if methods()[id].signed else [abs(weight) for weight in weights]


def only(adapter: Adapter, names: Sequence[str]) -> Adapter:
    """The adapter with these of its modules."""
    return replace(adapter, modules={name: adapter.modules[name] for name in names if name in adapter.modules})


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("id", methods())
def test_equals_the_dense_reference(real_data: Path, group: str, id: str) -> None:
    adapters, weights = sources_of(real_data, group, id)
    merged = merge(adapters, id, weights, other_bases=True)
    assert set(merged.modules) == {name for adapter in adapters for name in adapter.modules}
    for name in merged.modules:
        want = expected(adapters, id, weights, name)
        allowed = TOLERANCE if id != "iso" else max(TOLERANCE, ROUNDING * spread(adapters, weights, name))
        error, size = np.linalg.norm(merged.delta(name) - want), np.linalg.norm(want)
        assert error <= allowed * size, f"{name}: {error:.1e} of {size:.1e}, allowed {allowed:.1e}"


def spread(adapters: Sequence[Adapter], weights: Sequence[float], name: str) -> float:
    """The strongest over the weakest direction of the sum; Iso-C makes both equal, and magnifies rounding by that."""
    total = expected(adapters, "cat", weights, name)
    columns = np.hstack([adapter.modules[name].B for adapter in adapters if name in adapter.modules])
    s = np.linalg.svd(np.linalg.qr(columns.astype(np.float64))[0].T @ total, compute_uv=False)
    live = s[s > 1e-6 * s[0]]
    return float(live[0] / live[-1]) if len(live) else 1.0
