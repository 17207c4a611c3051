"""The identity law through files: stock PEFT saves, we merge it alone at weight 1, we and stock PEFT read it back."""

from __future__ import annotations

import warnings

import pytest

from bench.identity import LAYOUTS, TOLERANCE, ours
from studio import methods

LAWFUL = [id for id, method in methods().items() if method.laws.identity]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("id", LAWFUL)
def test_one_adapter_comes_back(id: str, layout: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT remarks on Conv1D and on targeted embeddings
        found = ours(id, LAYOUTS[layout])
    assert not found.refusal
    assert found.error <= TOLERANCE
