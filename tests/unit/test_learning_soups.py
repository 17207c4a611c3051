"""Learned coefficients: the export equals the training-time forward, runs resume exactly, defaults move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import studio
from studio.composing.compose import compose, recipe_for
from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe, LoomError
from studio.core.linalg import Pair
from studio.formats import save_adapter
from studio.learning.coefficients import Granularity, Parameterisation, Settings, Step, group_of, mixture, phi
from studio.learning.data import Examples, batch_rows, split
from studio.learning.fit import Schedule
from studio.learning.soup import learn
from studio.merging.stacks import edited
from studio.recipes.recipe import UnitEdits
from studio.recipes.sources import Sources
from studio.text.bases import TextBase
from studio.text.skills import Item
from tests.text_worlds import adapter, base, peft_logits

ITEMS = tuple(Item(f"{a}{b}", f" {b}{a}") for a in "abcdef" for b in "uvwxyz")
SHORT = Schedule(steps=12, check_every=4)


@pytest.fixture
def world(tmp_path: Path) -> tuple[TextBase, list[Adapter]]:
    targets = [["q_proj", "up_proj"], ["q_proj", "v_proj", "down_proj"]]
    return base("llama"), [adapter(tmp_path / name, "llama", targets[i], i, 3 + i) for i, name in enumerate("ab")]


CASES: list[tuple[Parameterisation, Granularity]] = [
    ("free", "module"),
    ("free", "rank"),
    ("leaky", "layer"),
    ("softmax", "sublayer"),
    ("squared", "global"),
    ("sigmoid", "module"),
    ("affine", "module"),
]


@pytest.mark.parametrize(("shape", "granularity"), CASES)
def test_the_export_equals_the_training_time_forward(
    shape: Parameterisation, granularity: Granularity, world: tuple[TextBase, list[Adapter]], tmp_path: Path
) -> None:
    lm, sources = world
    settings = Settings(shape, granularity, schedule=SHORT)
    found = learn(lm, sources, Examples(ITEMS, ITEMS), settings)
    mix = mixture(lm, sources, settings)
    with torch.no_grad():
        for tensor, best in zip(mix.tensors, found.state.best, strict=True):
            tensor.copy_(best)
        ids = lm.encode("the fox and the hen")
        trained = mix.view(torch.tensor([ids])).logits[0]
    recipe = found.into(recipe_for(sources, "cat", None, {}))
    merged = compose(recipe, Sources(tuple(sources))).adapter
    save_adapter(merged, tmp_path / "out")
    stock = peft_logits(tmp_path / "out", "llama", ids)
    torch.testing.assert_close(stock, trained, rtol=0, atol=1e-4)
    assert (trained - lm.model(torch.tensor([ids])).logits[0]).abs().max() > 1e-2
    assert studio.recipes.recipe.read_yaml(recipe.to_yaml()) == recipe


def test_theta_is_float32_even_over_a_half_precision_base(world: tuple[TextBase, list[Adapter]]) -> None:
    lm, sources = world
    lm.model.to(torch.bfloat16)
    mix = mixture(lm, sources, Settings())
    assert mix.theta.dtype == torch.float32
    found = learn(lm, sources, split(ITEMS), Settings(schedule=Schedule(steps=2)))
    recipe = found.into(recipe_for(sources, "cat", None, {}))
    merged = compose(recipe, Sources(tuple(sources))).adapter
    exported = mixture(lm, [merged], Settings()).view
    with torch.no_grad():
        mix.theta.copy_(found.state.best[0])
        ids = torch.tensor([lm.encode("the fox")])
        scale = mix.view(ids).logits.abs().max()
        assert (mix.view(ids).logits - exported(ids).logits).abs().max() <= 2e-2 * scale


def test_default_settings_move_the_logits(world: tuple[TextBase, list[Adapter]]) -> None:
    lm, sources = world
    losses: list[Step] = []
    found = learn(lm, sources, Examples(ITEMS, ITEMS), on_step=losses.append)
    ids = torch.tensor([lm.encode("au")])
    with torch.no_grad():
        mix = mixture(lm, sources, Settings())
        before = mix.view(ids).logits.clone()
        mix.theta.copy_(found.state.best[0])
        assert (mix.view(ids).logits - before).abs().max() > 0.5
    assert found.state.valid[-1][1] < 0.95 * found.state.valid[0][1]
    assert losses[-1].step == losses[-1].steps == 100
    assert losses[-1].coefficients.shape == found.coefficients.shape == (8, 2)
    assert np.isnan(found.coefficients).sum() == 6  # q_proj alone is adapted by both


def test_a_run_taken_up_again_is_the_run(world: tuple[TextBase, list[Adapter]]) -> None:
    lm, sources = world
    settings, examples = Settings(schedule=SHORT), split(ITEMS)
    whole = learn(lm, sources, examples, settings)
    seen: list[Step] = []
    half = learn(lm, sources, examples, settings, on_step=seen.append, stop=lambda: len(seen) == 5)
    assert half.state.step == 5
    rest = learn(lm, sources, examples, settings, state=half.state)
    assert torch.equal(rest.state.tensors[0], whole.state.tensors[0])
    assert rest.state.losses == whole.state.losses
    assert rest.state.valid == whole.state.valid
    assert half.state.step == 5  # what was given is untouched
    again = learn(lm, sources, examples, settings)
    assert torch.equal(again.state.best[0], whole.state.best[0])


def test_patience_ends_a_run_and_the_best_step_is_kept(world: tuple[TextBase, list[Adapter]]) -> None:
    lm, sources = world
    wild = Settings(schedule=Schedule(rate=5.0, steps=60, check_every=1, patience=3, warm_up=0))
    found = learn(lm, sources, split(ITEMS), wild)
    assert found.state.step < 60
    lowest = min(loss for _, loss in found.state.valid)
    mix = mixture(lm, sources, wild)
    with torch.no_grad():
        mix.theta.copy_(found.state.best[0])
    from studio.learning.updates import answer_loss

    assert answer_loss(lm, mix.view, split(ITEMS).valid).whole() == pytest.approx(lowest, rel=1e-5)


def test_starts_are_those_of_the_paper() -> None:
    drawn = Settings("free", init="normal").first(2000, 4)
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.05)
    assert torch.equal(drawn, Settings("free", init="normal").first(2000, 4))
    even = Settings("free", init="uniform").first(2000, 4)
    assert 0 <= float(even.min()) < 0.01 < 0.99 < float(even.max()) <= 1
    assert Settings("free", init="equal").first(1, 4).tolist() == [[0.5] * 4]
    assert Settings("squared", init="equal").first(1, 4).tolist() == [[0.25] * 4]
    assert Settings("leaky", init="target", start=0.3).first(2, 3).tolist() == [pytest.approx([0.3, 0, 0])] * 2
    assert Settings("leaky").first(1, 2).tolist() == [[0, 0]]


def test_phi() -> None:
    theta = torch.tensor([[-1.0, 2.0], [0.0, 0.0]])
    present = torch.tensor([[True, True], [True, False]])
    assert torch.allclose(phi(theta, "softmax", present)[1], torch.tensor([1.0, 0.0]))
    assert torch.allclose(phi(theta, "leaky", present)[0], torch.tensor([-0.01, 2.0]))
    assert torch.allclose(phi(theta, "squared", present)[0], torch.tensor([1.0, 4.0]))
    assert phi(theta, "free", present) is theta
    lifted = phi(torch.zeros(1, 1), "affine", torch.ones(1, 1, dtype=torch.bool), torch.tensor([3.0, -1.0]))
    assert float(lifted) == 0.5


def test_groups() -> None:
    name = "model.layers.3.self_attn.q_proj"
    assert group_of(name, "global") == "all"
    assert group_of(name, "layer") == "model.layers.3"
    assert group_of(name, "sublayer") == "model.layers.3.self_attn"
    assert group_of("transformer.h.0.mlp.c_fc", "sublayer") == "transformer.h.0.mlp"
    assert group_of("lm_head", "layer") == "lm_head"


def test_what_cannot_be_learned_is_refused(world: tuple[TextBase, list[Adapter]]) -> None:
    lm, sources = world
    with pytest.raises(BadRecipe, match="rank"):
        Settings("softmax", "rank")
    with pytest.raises(BadRecipe, match=r"(?i)steps"):
        Schedule(steps=0)
    with pytest.raises(LoomError, match="no examples"):
        split([])
    with pytest.raises(BadRecipe, match="nothing to learn"):
        learn(lm, [], split(ITEMS))
    found = learn(lm, sources, split(ITEMS), Settings(granularity="rank", schedule=Schedule(steps=1)))
    recipe = recipe_for(sources, "cat", None, {})
    with pytest.raises(BadRecipe, match="sources"):
        found.into(recipe_for(sources[:1], "cat", None, {}))
    module = next(iter(sources[0].modules))
    edits = [{**recipe.sources[0].model_dump(), "units": {"scale": {module: {0: 0.0}}}}, recipe.sources[1].model_dump()]
    with pytest.raises(BadRecipe, match="edited units"):
        found.into(recipe.changed(sources=edits))


def test_rank_coefficients_are_edits_of_raw_units() -> None:
    pair = Pair(torch.randn(3, 5), torch.randn(4, 3))
    g = torch.tensor([0.5, -2.0, 0.0])
    edits = UnitEdits(form="raw", scale={"m": dict(enumerate(g.tolist()))})
    torch.testing.assert_close(edited("m", pair, edits).delta(), pair.B @ torch.diag(g) @ pair.A)


def test_batches_depend_on_the_step_alone() -> None:
    seen = torch.cat([batch_rows(10, 4, step, seed=7) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert torch.equal(batch_rows(10, 4, 3, 7), batch_rows(10, 4, 3, 7))
    assert not torch.equal(batch_rows(10, 10, 0, 7), batch_rows(10, 10, 1, 7))


def test_split_of_examples() -> None:
    found = split(ITEMS, seed=1)
    assert len(found.valid) == 7
    assert set(found.train).isdisjoint(found.valid)
    assert set(found.all) == set(ITEMS)
    few = split(ITEMS[:10])
    assert few.train == few.valid == ITEMS[:10]
