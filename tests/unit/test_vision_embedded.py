"""The shipped vision model: stock diffusers opens it, plain analogies come out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from studio.core.errors import MissingFile, Refused
from studio.evaluation.image_quality import psnr
from studio.formats.containers.lorweb_file import is_lorweb
from studio.vision import world
from studio.vision.pipeline import EMBEDDED, AnalogyModel, catalogue, load_embedded
from studio.vision.transforms import TRANSFORMS
from training.vision.data import as_bytes, as_floats
from training.vision.shipped import ShippedPredictor


@pytest.fixture(scope="module")
def model() -> AnalogyModel:
    return load_embedded()


@pytest.fixture(scope="module")
def trials() -> tuple[torch.Tensor, ...]:
    """a, a', b and the right b' of two analogies of each of four seen edits."""
    generator = torch.Generator().manual_seed(77)
    drawn = [world.draw((name,), 2, 2, generator) for name in ("invert", "tint", "night", "letterbox")]
    before, after = (as_bytes(torch.cat([getattr(batch, side) for batch in drawn])) for side in ("before", "after"))
    return before[:, 0], after[:, 0], before[:, 1], after[:, 1]


def test_plain_edits_are_carried_over(model: AnalogyModel, trials: tuple[torch.Tensor, ...]) -> None:
    a, a2, b, answer = trials
    assert len(b) == 8
    truth = as_floats(answer)
    drawn = psnr(ShippedPredictor(model, 2)(a, a2, b, answer), truth)
    assert drawn.mean() > 26
    assert (drawn > psnr(as_floats(b), truth) + 5).all()


def test_the_pair_decides(model: AnalogyModel, trials: tuple[torch.Tensor, ...]) -> None:
    a, a2, b, answer = trials
    other = ShippedPredictor(model, 2)(a.roll(2, 0), a2.roll(2, 0), b, answer)
    assert psnr(other, as_floats(answer)).mean() < 16


def test_stock_diffusers_opens_the_folder() -> None:
    from diffusers import FluxKontextPipeline

    absent = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipeline = FluxKontextPipeline.from_pretrained(EMBEDDED, dtype=torch.float32, **absent)
    assert pipeline.transformer.config.num_single_layers == 7
    assert pipeline.vae_scale_factor == 4


def test_the_basis_is_in_the_released_layout() -> None:
    from safetensors import safe_open

    with safe_open(EMBEDDED / "lorweb" / "lorweb_model.safetensors", "np") as file:
        names = list(file.keys())
    assert is_lorweb(names)
    assert len(names) == 4 * 49
    assert all(name.startswith("transformer.") for name in names)


def test_the_catalogue_holds_seen_transforms(tmp_path: Path) -> None:
    names = catalogue()
    assert len(names) >= 30
    assert set(names) <= set(world.SEEN) <= set(TRANSFORMS)
    with pytest.raises(MissingFile):
        catalogue(tmp_path)
    for content in ("{", "[]", json.dumps({"catalogue": ["no such"]}), json.dumps({"catalogue": 3})):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(Refused):
            catalogue(tmp_path)
