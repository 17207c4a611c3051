"""Real and hostile-by-accident base folders: a story model that tells a story, encoders that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from studio.core.adapter import Adapter, in_memory_module
from studio.core.errors import NotAtHand
from studio.text.bases import open_base
from studio.text.decoding import Decoding
from studio.text.preview import open_preview


def test_a_story_model_tells_a_story_and_its_broken_copy_does_not(real_data: Path) -> None:
    base = open_base(str(real_data / "base" / "stories260K" / "hf"))
    rng = np.random.default_rng(0)
    name = "model.layers.0.mlp.down_proj"
    noise = in_memory_module(name, rng.standard_normal((4, 172), "f4"), rng.standard_normal((64, 4), "f4"))
    preview = open_preview(base, [Adapter("noise", {name: noise}, "test")])
    story, spoiled = list(preview.generate("Once upon a time", None, Decoding(max_tokens=60)))[-1]
    assert "there was a little" in story
    assert story != spoiled
    found = preview.perplexity("Once upon a time, there was a little girl named Lily. She loved to play in the park.")
    assert found.values[0] < 10 < found.values[1]


@pytest.mark.parametrize(
    ("name", "why"), [("T5ForConditionalGeneration", "encoder"), ("BertForSequenceClassification", "is an encoder")]
)
def test_encoders_are_refused(name: str, why: str, real_data: Path) -> None:
    with pytest.raises(NotAtHand, match=why):
        open_base(str(real_data / "base" / "caikit-tiny-random" / name))


def test_a_pickled_bloom_opens_and_writes(real_data: Path) -> None:
    base = open_base(str(real_data / "base" / "caikit-tiny-random" / "BloomForCausalLM"))
    name = "transformer.h.0.self_attention.query_key_value"
    rng = np.random.default_rng(0)
    pair = in_memory_module(name, rng.standard_normal((4, 32), "f4"), rng.standard_normal((96, 4), "f4"))
    source = Adapter("random", {name: pair}, "test")
    preview = open_preview(base, [source])
    assert len(list(preview.generate("Hello", source, Decoding(max_tokens=12)))[-1]) == 3
    plain, alone, merged = preview.perplexity("Hello there, little fox", source).values
    assert alone == pytest.approx(merged, rel=1e-5)
    assert abs(alone - plain) > 1e-3 * plain
