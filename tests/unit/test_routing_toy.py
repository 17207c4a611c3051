"""The reference toy of the specification, shortened: what must land in its bands does, and in its order.

bench/remix.py runs it in full; docs/explanation/evidence-routing.md says cell by cell what lands and what does not.
"""

from __future__ import annotations

import pytest
import torch

from bench.remix_toy import READINGS, Batch, batch_of, run
from bench.remix_toy_page import SPEC, lands
from studio.routing.toy import EXPERTS, Result, Toy, make_toy, mixed, run_toy

SHORT = {"steps": 500, "rate": 1e-2}


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(0)


@pytest.fixture(scope="module")
def trained(toy: Toy) -> dict[str, Result]:
    """Experts trained with their router."""
    runs: dict[str, tuple[str, int]] = {"dense softmax": ("softmax", 2), "top-k softmax": ("topk", 2)}
    runs |= {"ReMix M=8": ("remix", 8)}
    return {name: run_toy(toy, kind, samples=m, frozen=False, **SHORT) for name, (kind, m) in runs.items()}  # type: ignore[arg-type]


def test_the_toy_is_what_the_specification_says(toy: Toy) -> None:
    assert toy.inputs.shape[1] == 32
    assert toy.pairs.shape == (6, 2)
    assert len({tuple(sorted(pair)) for pair in toy.pairs.tolist()}) == 6
    right = torch.zeros(6, EXPERTS).scatter(1, toy.pairs, 1.0)[toy.cluster]
    torch.testing.assert_close(mixed(toy.inputs, right, toy.down, toy.up), toy.targets)


@pytest.mark.parametrize("samples", [2, 8])
def test_remix_over_frozen_experts_finds_every_pair(toy: Toy, samples: int) -> None:
    found = run_toy(toy, "remix", samples=samples, **SHORT)  # type: ignore[arg-type]
    mse, support, share = SPEC["frozen"]["ReMix M=8"]
    assert lands(found.test.loss, mse or 0)
    assert found.test.support == support
    assert found.test.found == share


@pytest.fixture(scope="module")
def batch() -> Batch:
    return batch_of(READINGS["noise 0.5, P from N(0, 0.02²)"])


def test_the_batched_error_is_that_of_the_toy(batch: Batch) -> None:
    toy = make_toy(3)
    weights = torch.rand(len(toy.inputs), EXPERTS, generator=torch.Generator().manual_seed(0))
    wanted = (mixed(toy.inputs, weights, toy.down, toy.up) - toy.targets).square().mean(-1)
    torch.testing.assert_close(batch.error(weights.expand(10, -1, -1))[3], wanted, rtol=1e-3, atol=1e-5)


def test_over_ten_seeds_remix_over_frozen_experts_lands_in_its_bands(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.remix_toy.STEPS", 300)
    monkeypatch.setattr("bench.remix_toy.RATE", 1e-2)
    mse, support, share = SPEC["frozen"]["ReMix M=8"]
    found = run(batch, READINGS["noise 0.5, P from N(0, 0.02²)"], "remix", 8)
    assert all(one["support"] == pytest.approx(support) for one in found)
    assert sum(lands(one["loss"], mse or 0) for one in found) >= 8  # a seed may lock a cluster onto a wrong pair
    assert sum(lands(one["found"], share or 0) for one in found) >= 8


def test_dense_softmax_over_frozen_experts_lands_in_its_bands(toy: Toy) -> None:
    found = run_toy(toy, "softmax", **SHORT)  # type: ignore[arg-type]
    _, support, share = SPEC["frozen"]["dense softmax"]
    assert lands(found.test.support, support or 0)
    assert found.test.found == share


def test_joint_training_collapses_top_k_softmax_and_not_remix(trained: dict[str, Result]) -> None:
    for name, found in trained.items():
        assert lands(found.test.support, SPEC["trained"][name][1] or 0), name
    assert trained["top-k softmax"].test.support_low < 1.1  # a tenth of the inputs: one expert of two
    assert trained["ReMix M=8"].test.support_low == 2.0


def test_errors_of_joint_training_stand_in_the_specified_order(trained: dict[str, Result]) -> None:
    loss = {name: found.test.loss for name, found in trained.items()}
    assert loss["dense softmax"] < loss["ReMix M=8"] < loss["top-k softmax"]
