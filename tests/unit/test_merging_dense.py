"""Row tiles, exact selection and truncation: the parts that every elementwise method stands on."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from studio.core.linalg import Pair
from studio.merging import dense
from studio.merging.dense import entries, merged_rows, nth_largest, rows_of, tiles, weighted_sum
from studio.merging.registry import Draw
from studio.merging.thin import Coins
from studio.merging.truncate import truncate


def pair(seed: int, modules: int = 3, d_out: int = 37, d_in: int = 23, rank: int = 4) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    return Pair(
        torch.randn(modules, rank, d_in, generator=generator), torch.randn(modules, d_out, rank, generator=generator)
    )


@pytest.fixture(params=[1, 200, 1 << 20])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Tiles of one row, of a few, and of everything."""
    monkeypatch.setattr(dense, "_TILE", request.param)
    return int(request.param)


def test_tiles_cover_every_row_once(tile: int) -> None:
    rows = [row for part in tiles(pair(0)) for row in range(37)[part]]
    assert rows == list(range(37))


def test_the_nth_largest_magnitude_is_the_sorted_one(tile: int) -> None:
    one = pair(0)
    magnitudes = rows_of(one, slice(None)).abs().flatten(1).sort(-1, descending=True).values
    for n in (1, 2, 400, 37 * 23 - 1):
        found = nth_largest(one, n)
        assert found.shape == (3, 1, 1)
        torch.testing.assert_close(found[:, 0, 0], magnitudes[:, n - 1], rtol=1e-14, atol=0)
    assert not nth_largest(one, 37 * 23).any()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_selection_bears_equal_magnitudes(value: float) -> None:
    flat = Pair(torch.ones(2, 1, 8), torch.full((2, 9, 1), value))
    assert (nth_largest(flat, 30) == value).all()


def test_as_many_stay_as_the_threshold_says(tile: int) -> None:
    one = pair(1)
    smallest = nth_largest(one, entries(one, 0.3))
    kept = merged_rows([one], [partial(dense.trim, smallest=smallest)], partial(weighted_sum, weights=torch.ones(3, 1)))
    assert (kept != 0).sum((1, 2)).tolist() == [int(0.3 * 37 * 23)] * 3


def test_coins_do_not_depend_on_the_tiles(tile: int) -> None:
    one, draw = pair(0), Draw(7, ("a", "b", "c"))
    coins = Coins(draw, 1)
    in_tiles = torch.cat([coins(rows_of(one, part)) for part in tiles(one)], 1)
    assert torch.equal(in_tiles, Coins(draw, 1)(rows_of(one, slice(None))))
    alone = Coins(Draw(7, ("b",)), 1)(torch.empty(1, 37, 23))
    assert torch.equal(in_tiles[1:2], alone)
    assert not torch.equal(in_tiles, Coins(draw, 2)(rows_of(one, slice(None))))


@pytest.mark.parametrize(("d_out", "d_in"), [(40, 30), (30, 40), (1400, 1100), (1100, 1400)])
def test_truncation_is_the_best_of_its_rank(d_out: int, d_in: int) -> None:
    generator = torch.Generator().manual_seed(0)
    delta = pair(3, 1, d_out, d_in, 12).delta() + 0.01 * torch.randn(1, d_out, d_in, generator=generator)
    u, s, vh = torch.linalg.svd(delta.double(), full_matrices=False)
    found, kept = truncate(delta, 8)
    wanted = u[..., :8] * s[..., None, :8] @ vh[..., :8, :]
    error = torch.linalg.vector_norm(found.delta() - wanted) / torch.linalg.vector_norm(wanted)
    assert error < 1e-5
    torch.testing.assert_close(kept, s[..., :8].square().sum(-1) / s.square().sum(-1), rtol=1e-6, atol=0)


def test_a_zero_matrix_keeps_all_of_nothing() -> None:
    found, kept = truncate(torch.zeros(1, 6, 5), 3)
    assert not found.delta().any()
    assert kept.item() == 1.0
