"""Every method declares itself well: the page, the command line, recipes and docs are made from these declarations."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from studio import methods
from studio.core.errors import BadRecipe
from studio.merging.registry import Knob, Method
from tests.contract.contract import IDS
from tests.contract.registry import unlisted
from tests.references import reference_of
from tests.waiting import LIMIT

KNOBS = [pytest.param(knob, id=f"{id}-{knob.name}") for id, found in methods().items() for knob in found.knobs.values()]
NUMERIC = [param for param in KNOBS if param.values[0].range]


def test_every_method_that_is_declared_is_listed() -> None:
    assert unlisted("studio.merging", Method, methods()) == []


@pytest.mark.parametrize("id", IDS)
def test_every_method_has_a_dense_reference(id: str) -> None:
    assert callable(reference_of(id))


@pytest.mark.parametrize("found", methods().values(), ids=IDS)
def test_a_method_says_what_it_is(found: Method) -> None:
    assert found.id == found.run.__name__ == found.id.lower()
    assert found.title
    assert found.summary.endswith(".")
    assert found.source
    assert found.max_sources is None or found.max_sources >= 2
    assert found.weight(4) == (0.25 if found.default_weight == "mean" else 1.0)
    assert found.check({}) == {name: knob.default for name, knob in found.knobs.items()}


@pytest.mark.parametrize("found", methods().values(), ids=IDS)
def test_an_unknown_knob_is_refused_by_name(found: Method) -> None:
    with pytest.raises(BadRecipe, match=r"(?i)'loudness'"):
        found.check({"loudness": 1})


@pytest.mark.parametrize("knob", KNOBS)
def test_a_knob_says_what_it_does(knob: Knob) -> None:
    assert knob.help.endswith(".")
    assert knob.title[0].isupper()
    assert knob.check(knob.default) == knob.default
    assert (knob.kind == "choice") == bool(knob.choices)
    assert (knob.kind in ("int", "float")) == (knob.range is not None)


@pytest.mark.parametrize("knob", NUMERIC)
def test_bounds_hold_the_default_and_themselves(knob: Knob) -> None:
    bounds = knob.range
    assert bounds
    assert bounds.low < bounds.high
    assert 0 < bounds.step <= bounds.high - bounds.low
    assert bounds.low <= knob.default <= bounds.high or knob.default == bounds.auto
    for value in (bounds.low, bounds.high, *(() if bounds.auto is None else (bounds.auto,))):
        assert knob.check(value) == knob.parse(str(value)) == value


@pytest.mark.parametrize("knob", NUMERIC)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, -1e9, "many", None, [], True, 10**400])
def test_what_is_no_number_in_bounds_is_refused(knob: Knob, value: object) -> None:
    with pytest.raises(BadRecipe, match=f"(?i){knob.name}"):
        knob.check(value)


def test_listing_the_methods_loads_no_torch() -> None:
    code = "import sys, studio; list(studio.methods()['lego'].knobs); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=LIMIT).returncode == 0
