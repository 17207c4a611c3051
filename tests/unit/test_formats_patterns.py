"""Patterns of rank_pattern and alpha_pattern match what stock PEFT matches, on the names that PEFT saw."""

from __future__ import annotations

import json
import random
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from torch import nn

from studio.core.errors import Refused
from studio.formats import inspect, open_adapter
from studio.formats.modules.patterns import Match, first_match, wrapped_names
from tests.fixtures import peft_folder

NAMES = (
    "h.0.q_proj",
    "model.h.0.q_proj",
    "model.h.10.q_proj",
    "q_proj",
    "h.0.my_q_proj",
    "h_0.q_proj",
    "transformer_blocks.0.attn.to_q",
    "a{b}.q_proj",
    "x+y.k",
)
ATOMS = (
    *("q_proj", "to_q", "h", "model", "0", "10", "attn", "k", "x+y", "a{b}"),
    *(".", r"\.", ".*", r"\d+", r"\d{1,2}", r"\w*", "[^.]+", "[0-9]", "^", "$", "|", "?", "*", "+"),
    *("(h|model)", "(?:q|k)_proj", "(?=q)", "(?<=0.)", r"\1", r"\2", "{b}", "{e<=1}", "{,2}", "[[:alpha:]]", "(?i)"),
)


def stock(patterns: dict[str, float], name: str) -> float | type[Exception] | None:
    """The value that PEFT takes for a module, None for the config's own, or the error that it dies of."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return patterns.get(get_pattern_key(list(patterns), name))
    except re.error:
        return Refused


def ours(patterns: dict[str, float], name: str) -> float | type[Exception] | None:
    try:
        found = first_match(patterns, (name,))
    except Refused:
        return Refused
    return found.value if found else None


@pytest.mark.parametrize("pattern", [*ATOMS, r"h\.\d+\.q_proj", "q_pro.", "^h.0.q_proj", "x|q_proj", "h.0.q_proj$", ""])
@pytest.mark.parametrize("name", NAMES)
def test_a_pattern_matches_what_peft_matches(pattern: str, name: str) -> None:
    assert ours({pattern: 1.0}, name) == stock({pattern: 1.0}, name)


def test_random_patterns_match_what_peft_matches() -> None:
    chance = random.Random(0)
    matched = 0
    for _ in range(800):
        drawn = ["".join(chance.choices(ATOMS, k=chance.randint(1, 5))) for _ in range(chance.randint(1, 3))]
        patterns = {pattern: float(index) for index, pattern in enumerate(drawn)}
        for name in NAMES:
            expected = stock(patterns, name)
            assert ours(patterns, name) == expected, (patterns, name)
            matched += isinstance(expected, float)
    assert matched > 300


def test_a_name_that_is_itself_a_key_is_found_though_no_pattern_matches_it() -> None:
    assert first_match({"x+y.k": 3.0}, ("x+y.k",)) == Match("x+y.k", 3.0)


@pytest.mark.parametrize(
    ("stored", "names"),
    [
        ("base_model.model.h.0.q", ("h.0.q",)),
        ("h.0.q", ("h.0.q",)),
        ("module.base_model.model.h.0.q", ("h.0.q",)),
        ("_orig_mod.base_model.model.h.0.q", ("h.0.q",)),
        ("base_model.model._orig_mod.h.0.q", ("_orig_mod.h.0.q", "h.0.q")),
        ("base_model.model.h.0._fsdp_wrapped_module.q", ("h.0._fsdp_wrapped_module.q", "h.0.q")),
        ("base_model.model.base_model.model.h.0.q", ("base_model.model.h.0.q", "h.0.q")),
        ("my_base_model.model.q", ("my_base_model.model.q",)),
    ],
)
def test_the_names_that_peft_may_have_seen(stored: str, names: tuple[str, ...]) -> None:
    assert wrapped_names(stored) == names


@pytest.mark.parametrize("anchor", ["_orig_mod.model.layers.0", "model.layers.0", "^model.layers.0"])
def test_a_wrapper_inside_may_stand_in_a_pattern_or_not(tmp_path: Path, anchor: str) -> None:
    folder = peft_folder(
        tmp_path / "a", prefix="base_model.model._orig_mod.", alpha_pattern={f"{anchor}.self_attn.q_proj": 64.0}
    )
    scalings = {name: module.scaling for name, module in open_adapter(folder).modules.items()}
    assert scalings["model.layers.0.self_attn.q_proj"] == 16
    assert scalings["model.layers.1.self_attn.q_proj"] == 2


class Block(nn.Module):
    """A block of a denoiser, which gets its component in front when it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"to_q": nn.Linear(16, 16), "to_k": nn.Linear(16, 16)})


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([Block(), Block()])


ANCHORED = {
    "alpha": {"alpha_pattern": {"^transformer_blocks.0.attn.to_q": 32}},
    "both": {
        "alpha_pattern": {r"^transformer_blocks\.\d+\.attn\.to_q$": 3, "to_k": 5},
        "rank_pattern": {"^transformer_blocks.1.attn.to_q": 2, "blocks.1.attn.to_k": 1},
    },
    "not matched": {"alpha_pattern": {"^attn.to_q": 32, "^unet.transformer_blocks.0.attn.to_k": 9}},
}


@pytest.mark.parametrize("patterns", ANCHORED.values(), ids=ANCHORED)
@pytest.mark.parametrize("rslora", [False, True])
def test_an_anchor_is_the_start_of_the_path_inside_the_denoiser(
    tmp_path: Path, patterns: dict[str, dict[str, float]], rslora: bool
) -> None:
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["to_q", "to_k"], init_lora_weights=False, use_rslora=rslora, **patterns
    )
    model = get_peft_model(Denoiser(), config)
    model.save_pretrained(tmp_path)
    adapter = open_adapter(tmp_path)
    layers = {name: layer for name, layer in model.base_model.model.named_modules() if isinstance(layer, LoraLayer)}
    assert adapter.modules.keys() == {f"transformer.{name}" for name in layers}
    for name, layer in layers.items():
        expected = layer.get_delta_weight("default").detach().numpy()
        np.testing.assert_allclose(adapter.delta(f"transformer.{name}"), expected, rtol=1e-5, atol=1e-6)
    assert not [finding for finding in inspect(tmp_path).findings if "promises rank" in finding.text]


def test_an_anchor_in_diffusers_header_is_the_start_of_the_path_inside_its_component(tmp_path: Path) -> None:
    folder = peft_folder(
        tmp_path / "a", prefix="text_encoder.", modules={"encoder.layers.0.self_attn.q_proj": (6, 6)}, rank=2
    )
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings |= {"alpha_pattern": {"^encoder.layers.0": 1, "^encoder.layers.0.self_attn.q_proj": 32}}
    header = {f"text_encoder.{key}": value for key, value in settings.items()}
    file = tmp_path / "x.safetensors"
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors, file, {"lora_adapter_metadata": json.dumps(header)})
    assert [module.scaling for module in open_adapter(file).modules.values()] == [16.0]


def test_anchors_of_loha_are_matched_on_the_stored_path(tmp_path: Path) -> None:
    from peft import LoHaConfig

    torch.manual_seed(0)
    pattern = {"^transformer_blocks.0.attn.to_q": 32}
    config = LoHaConfig(r=4, alpha=8, target_modules=["to_q"], init_weights=False, alpha_pattern=pattern)
    model = get_peft_model(Denoiser(), config)
    model.save_pretrained(tmp_path)
    adapter = open_adapter(tmp_path)
    for index in range(2):
        layer = model.base_model.model.transformer_blocks[index].attn["to_q"]
        expected = layer.get_delta_weight("default").detach().numpy()
        found = adapter.delta(f"transformer.transformer_blocks.{index}.attn.to_q")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
