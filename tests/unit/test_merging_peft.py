"""Agreement with stock PEFT's own delta-space merges, through `add_weighted_adapter`, where PEFT is right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from studio.composing.compose import merge
from studio.core.adapter import Adapter, in_memory_module
from studio.merging.registry import Draw
from studio.merging.thin import Coins

WEIGHTS = [0.9, 0.4]
D_OUT, D_IN, RANK = 24, 20, 4


@pytest.fixture
def model() -> PeftModel:
    """One linear layer with two trained adapters of scaling 2."""
    torch.manual_seed(0)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["fc"])
    found = get_peft_model(nn.ModuleDict({"fc": nn.Linear(D_IN, D_OUT, bias=False)}), config, "one")
    found.add_adapter("two", config)
    for name in ("one", "two"):
        nn.init.normal_(layer(found).lora_B[name].weight)
    return found


def layer(model: PeftModel) -> Any:
    return model.base_model.model["fc"]


def sources(model: PeftModel) -> list[Adapter]:
    factors = ((layer(model).lora_A[name].weight, layer(model).lora_B[name].weight) for name in ("one", "two"))
    arrays = [[factor.detach().numpy() for factor in pair] for pair in factors]
    return [
        Adapter(name, {"fc": in_memory_module("fc", a, b, 2.0)}, "memory")
        for name, (a, b) in zip(("one", "two"), arrays, strict=True)
    ]


def same(model: PeftModel, ours: Adapter) -> None:
    wanted = layer(model).get_delta_weight("merged").detach()
    found = torch.from_numpy(ours.delta("fc"))
    assert torch.linalg.vector_norm(found - wanted) <= 1e-5 * torch.linalg.vector_norm(wanted)


@pytest.mark.parametrize("rank", [3, 8, 20])
@pytest.mark.parametrize(
    ("theirs", "id", "knobs"),
    [("svd", "svd", {}), ("ties_svd", "ties", {"election": "peft"}), ("magnitude_prune_svd", "prune", {})],
)
def test_the_same_delta(model: PeftModel, theirs: str, id: str, knobs: dict[str, Any], rank: int) -> None:
    density = {} if id == "svd" else {"density": 0.35}
    model.add_weighted_adapter(["one", "two"], WEIGHTS, "merged", combination_type=theirs, svd_rank=rank, **density)
    same(model, merge(sources(model), id, WEIGHTS, rank=rank, **density, **knobs))


@pytest.mark.parametrize(("theirs", "combine"), [("dare_linear_svd", "sum"), ("dare_ties_svd", "ties")])
def test_the_same_delta_of_the_same_coins(
    model: PeftModel, theirs: str, combine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT draws its masks from the global generator; given ours, its result is ours."""
    masks = iter([(Coins(Draw(5, ("fc",)), i)(torch.empty(1, D_OUT, D_IN))[0] < 0.4).float() for i in range(2)])
    monkeypatch.setattr("peft.utils.merge_utils.torch.bernoulli", lambda input: next(masks))
    model.add_weighted_adapter(["one", "two"], WEIGHTS, "merged", combination_type=theirs, svd_rank=8, density=0.4)
    found = merge(sources(model), "dare", WEIGHTS, seed=5, rank=8, density=0.4, combine=combine, election="peft")
    same(model, found)
