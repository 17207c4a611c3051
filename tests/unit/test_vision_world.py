"""The world: every transform is exact, deterministic and in range; what is held out is never drawn."""

from __future__ import annotations

import pytest
import torch

from studio.core.errors import LoomError
from studio.vision import world
from studio.vision.scenes import SHAPES, SIDE, render, sample_scene
from studio.vision.transforms import TRANSFORMS


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_gives_pictures_and_changes_them(name: str) -> None:
    for mode in ("train", "between", "beyond"):
        batch = world.draw((name,), 3, 2, _generator(), mode)
        assert batch.before.shape == batch.after.shape == (3, 2, 3, SIDE, SIDE)
        assert torch.isfinite(batch.after).all()
        assert 0 <= batch.after.min() <= batch.after.max() <= 1
        assert (batch.after - batch.before).abs().mean() > 0.002


@pytest.mark.parametrize("task", [("hue_shift",), ("add_hat",), ("shadow",), ("flip_h", "snow")])
def test_the_same_seed_draws_the_same_analogies(task: world.Task) -> None:
    one, two, other = (world.draw(task, 2, 2, _generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(one.after, two.after)
    assert not torch.equal(one.after, other.after)


def test_known_answers() -> None:
    picture = render(sample_scene(2, _generator()))
    full = torch.ones(2, 1, 3)
    torch.testing.assert_close(world.edit(("invert",), picture, full), 1 - picture.image)
    torch.testing.assert_close(world.edit(("flip_h",), picture, full), picture.image.flip(-1))
    twice = world.edit(("flip_h", "flip_v"), picture, full.expand(2, 2, 3))
    torch.testing.assert_close(twice, picture.image.flip(-1, -2))
    grey = world.edit(("grayscale",), picture, full)
    torch.testing.assert_close(grey, grey[:, :1].expand_as(grey))
    half = world.edit(("mirror_half",), picture, full)
    torch.testing.assert_close(half, half.flip(-1))
    popped = world.edit(("colour_pop",), picture, full)
    inside, outside = (picture.mask == 1)[:, None], (picture.mask == 0)[:, None]
    torch.testing.assert_close(popped * inside, picture.image * inside)
    torch.testing.assert_close(
        (popped.amax(1) - popped.amin(1)) * outside[:, 0], torch.zeros(2, SIDE, SIDE), atol=1e-5, rtol=0
    )


def test_parameters_keep_to_their_split() -> None:
    first = {mode: world.sample_parameters(4000, _generator(), mode)[:, 0] for mode in ("train", "between", "beyond")}
    in_a_band = [(first[mode][:, None] >= torch.tensor(world.BANDS)[:, 0]) for mode in ("train", "between")]
    below = [(first[mode][:, None] < torch.tensor(world.BANDS)[:, 1]) for mode in ("train", "between")]
    trained, between = ((low & high).any(1) for low, high in zip(in_a_band, below, strict=True))
    assert not trained.any()
    assert between.all()
    assert first["train"].min() >= 0
    assert first["train"].max() <= 1
    assert ((first["beyond"] <= 0) | (first["beyond"] >= 1)).all()
    assert (first["beyond"] - 0.5).abs().max() <= 0.5 + world.REACH


def test_splits_are_disjoint_and_complete() -> None:
    assert set(world.SEEN).isdisjoint(world.UNSEEN)
    assert set(world.SEEN) | set(world.UNSEEN) == set(TRANSFORMS)
    assert set(world.SEEN_PAIRS).isdisjoint(world.UNSEEN_PAIRS)
    assert len(world.UNSEEN_PAIRS) >= 40
    for pair in world.PAIRS:
        assert set(pair) <= set(world.SEEN)
        assert TRANSFORMS[pair[0]].family != TRANSFORMS[pair[1]].family
        world.check(pair)


def test_members_of_a_group_share_the_edit_and_not_the_scene() -> None:
    batch = world.draw(("brightness",), 1, 2, _generator(2))
    assert not torch.allclose(batch.before[0, 0], batch.before[0, 1])
    gains = []
    for before, after in zip(batch.before[0], batch.after[0], strict=True):
        kept = (after < 0.99) & (before > 0.2)
        gains.append(float((after / before)[kept].median()))
    assert gains[0] == pytest.approx(gains[1], rel=1e-4)


def test_all_shapes_are_drawn() -> None:
    scene = sample_scene(200, _generator())
    assert set(scene.shape.flatten().tolist()) == set(range(len(SHAPES)))
    picture = render(scene)
    assert 0.02 < picture.mask.mean() < 0.5


def test_wrong_tasks_are_refused() -> None:
    with pytest.raises(LoomError, match="no transform"):
        world.check(("nothing",))
    with pytest.raises(LoomError, match="cannot come second"):
        world.check(("invert", "add_hat"))
    with pytest.raises(LoomError, match="one or two"):
        world.check(("invert", "blur", "snow"))
