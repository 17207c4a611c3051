"""The same merge on a GPU, where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter, in_memory_module
from studio.merging import methods
from studio.recipes.sources import Sources


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("id", methods())
def test_a_gpu_gives_what_the_cpu_gives(id: str) -> None:
    draw = np.random.default_rng(0)
    adapters = tuple(
        Adapter(
            name,
            {
                f"m{i}": in_memory_module(
                    f"m{i}", draw.standard_normal((4, 60), np.float32), draw.standard_normal((40, 4), np.float32)
                )
                for i in range(3)
            },
            "memory",
        )
        for name in ("one", "two")
    )
    recipe = recipe_for(adapters, id, None, {})
    ours, theirs = (compose(recipe, Sources(adapters, device=device)) for device in ("cpu", "cuda"))
    for name in ours.adapter.modules:
        wanted = ours.adapter.delta(name)
        assert np.linalg.norm(theirs.adapter.delta(name) - wanted) <= 1e-5 * np.linalg.norm(wanted)
    assert theirs.report.cosines == pytest.approx(np.array(ours.report.cosines), abs=1e-9)
