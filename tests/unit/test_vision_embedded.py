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
from training.vision.data import as_floats
from training.vision.evaluate import Trial, draw_trials
from training.vision.shipped import ShippedPredictor


@pytest.fixture(scope="module")
def model() -> AnalogyModel:
    return load_embedded()


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    wanted = {("invert",), ("tint",), ("night",), ("letterbox",)}
    return [t for t in draw_trials("seen", 2, 77, torch.device("cpu"), limit=36) if t.task in wanted]


def _stacked(trials: list[Trial]) -> list[torch.Tensor]:
    return [torch.cat([getattr(trial, name) for trial in trials]) for name in ("a", "a2", "b", "answer")]


def test_plain_edits_are_carried_over(model: AnalogyModel, trials: list[Trial]) -> None:
    a, a2, b, answer = _stacked(trials)
    assert len(b) == 8
    truth = as_floats(answer)
    drawn = psnr(ShippedPredictor(model, 2)(a, a2, b, answer), truth)
    assert drawn.mean() > 26
    assert (drawn > psnr(as_floats(b), truth) + 5).all()


def test_the_pair_decides(model: AnalogyModel, trials: list[Trial]) -> None:
    a, a2, b, answer = _stacked(trials)
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
