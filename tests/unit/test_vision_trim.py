"""Trimming a basis: the least used adapters go, the rest answers as before."""

from __future__ import annotations

import torch

from studio.training.vision.trim import narrowed, norms, trim
from studio.vision.lorweb import BasisLayer, Lorweb

SIZE, RANK, WIDTH, QUERY = 5, 2, 6, 7


def _basis(unused: int) -> Lorweb:
    generator = torch.Generator().manual_seed(0)
    shapes = ((SIZE, 8, RANK), (SIZE, RANK, 9), (SIZE, WIDTH), (WIDTH, QUERY))
    down, up, keys, to_q = (torch.randn(shape, generator=generator) for shape in shapes)
    up[unused] = 0
    return Lorweb({"proj_out": BasisLayer(down, up, keys, to_q)})


def test_an_adapter_without_effect_is_the_one_that_goes() -> None:
    basis = _basis(unused=3)
    smaller = trim(basis, {name: norms(layer) for name, layer in basis.layers.items()}, SIZE - 1)
    kept, layer = smaller.layers["proj_out"], basis.layers["proj_out"]
    assert smaller.size == SIZE - 1
    torch.testing.assert_close(kept.down, layer.down[[0, 1, 2, 4]])
    torch.testing.assert_close(kept.up, layer.up[[0, 1, 2, 4]])


def test_the_rest_shares_in_the_same_proportions() -> None:
    basis, query = _basis(unused=3), torch.randn(QUERY, generator=torch.Generator().manual_seed(1))
    smaller = trim(basis, {name: norms(layer) for name, layer in basis.layers.items()}, SIZE - 1)
    before = basis.coefficients(query)[:, [0, 1, 2, 4]]
    torch.testing.assert_close(smaller.coefficients(query), before / before.sum(-1, keepdim=True))


def test_norms_are_those_of_the_updates() -> None:
    layer = _basis(unused=1).layers["proj_out"]
    torch.testing.assert_close(norms(layer), torch.linalg.matrix_norm(layer.down @ layer.up))


def test_keys_no_wider_than_their_number_lose_nothing() -> None:
    generator = torch.Generator().manual_seed(2)
    keys, to_q = torch.randn(3, 8, generator=generator), torch.randn(8, QUERY, generator=generator)
    fewer, query = narrowed(keys, to_q)
    assert fewer.shape == (3, 3)
    torch.testing.assert_close(fewer @ query / 3**0.5, keys @ to_q / 8**0.5)
    assert narrowed(to_q, keys.T)[0] is to_q
