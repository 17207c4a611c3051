"""Routing by modality: the rule as data, batches split by mode, models that are the base's own without an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.phi4 import Phi4, write_checkpoint
from studio.core.errors import BadRecipe, LoomError
from studio.formats import open_adapter, save_adapter
from studio.routing.modality import (
    MODES,
    REFERENCE,
    Forced,
    Inputs,
    ModalityRouter,
    Rule,
    active,
    rules_from,
)

TEXT, IMAGE, AUDIO, BOTH = (Inputs.of(mode) for mode in MODES)


def test_the_reference_table() -> None:
    router = ModalityRouter()
    found = {mode: router.decide(Inputs.of(mode)) for mode in MODES}
    assert {mode: decision.adapter for mode, decision in found.items()} == {
        "text": None,
        "image": "vision",
        "audio": "speech",
        "image+audio": "vision",
    }
    assert found["image+audio"].said == "image+audio -> vision (rule 1)"
    assert found["text"].said == "text -> base alone (rule 3)"
    assert [rule.said for rule in REFERENCE] == ["image", "audio", ""]
    assert all(Inputs.of(mode).mode == mode for mode in MODES)


def test_rules_are_data_in_order() -> None:
    rules = rules_from([{"adapter": "speech", "has_audio": True, "has_image": False}, {"adapter": None}])
    assert rules == (Rule("speech", has_image=False, has_audio=True), Rule(None))
    assert ModalityRouter(rules).decide(BOTH).adapter is None
    only_text = rules_from([{"adapter": "words", "has_text": True}])
    with pytest.raises(LoomError, match="without text"):
        ModalityRouter(only_text).decide(Inputs(False, True))


@pytest.mark.parametrize(
    "table",
    [
        None,
        [],
        [{}] * 65,
        ["vision"],
        [{"has_image": True}],
        [{"adapter": 3}],
        [{"adapter": "x", "has_image": "yes"}],
        [{"adapter": "x", "smell": True}],
    ],
)
def test_other_data_is_no_table(table: object) -> None:
    with pytest.raises(BadRecipe):
        rules_from(table)


def test_a_table_must_cover_every_mode() -> None:
    with pytest.raises(BadRecipe, match="what to do with text"):
        ModalityRouter((Rule("vision", has_image=True), Rule("speech", has_audio=True)))


def test_batches_split_by_mode_and_are_logged() -> None:
    batch = [TEXT, IMAGE, BOTH, TEXT, AUDIO, IMAGE]
    parts, log = ModalityRouter().split(batch)
    assert [(part.mode, part.adapter, part.rows) for part in parts] == [
        ("text", None, (0, 3)),
        ("image", "vision", (1, 5)),
        ("image+audio", "vision", (2,)),
        ("audio", "speech", (4,)),
    ]
    assert [decision.adapter for decision in log] == [None, "vision", "vision", None, "speech", "vision"]
    forced = ModalityRouter(forced=Forced("speech"))
    assert {part.adapter for part in forced.split(batch)[0]} == {"speech"}
    assert forced.decide(TEXT).said == "text -> speech (forced)"
    assert ModalityRouter(forced=Forced(None)).decide(IMAGE).adapter is None


@pytest.fixture(scope="module")
def phi() -> Any:
    """transformers' own Phi-4-multimodal, tiny and random, and its copy that adapters will be put on."""
    from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

    torch.manual_seed(0)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "crop_size": 28,
        "image_token_id": 60,
    }
    audio = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_blocks": 2,
        "num_attention_heads": 2,
        "ext_pw_out_channel": 16,
        "depthwise_separable_out_channel": 16,
        "nemo_conv_channels": 8,
        "input_size": 16,
        "audio_token_id": 61,
    }
    config = Phi4MultimodalConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        original_max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        vision_config=vision,
        audio_config=audio,
    )
    return Phi4MultimodalForCausalLM(config).eval()


@pytest.fixture(scope="module")
def adapted(phi: Any) -> Any:
    """A copy with two random adapters."""
    import copy

    from peft import LoraConfig, get_peft_model

    targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    vision, speech = (LoraConfig(r=r, lora_alpha=2 * r, target_modules=targets) for r in (4, 6))
    model = get_peft_model(copy.deepcopy(phi), vision, adapter_name="vision")
    model.add_adapter("speech", speech)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=generator))
    return model.eval()


def test_text_only_logits_of_phi4_equal_the_base_bit_for_bit(phi: Any, adapted: Any) -> None:
    model, ids = adapted, torch.tensor([[1, 5, 9, 33], [1, 7, 7, 12]])
    router = ModalityRouter()
    with torch.no_grad():
        base = phi(input_ids=ids).logits
        with active(model, router.decide(TEXT).adapter):
            routed = model(input_ids=ids).logits
        assert torch.equal(routed, base)
        results = {}
        for mode in ("image", "audio"):
            with active(model, router.decide(Inputs.of(mode)).adapter):
                results[mode] = model(input_ids=ids).logits
        assert not torch.equal(results["image"], base)
        assert not torch.equal(results["image"], results["audio"])
        with active(model, None):
            assert torch.equal(model(input_ids=ids).logits, base)


def test_phi4_reads_pictures_and_sounds_under_the_routed_adapter(adapted: Any) -> None:
    model = adapted
    generator = torch.Generator().manual_seed(2)
    seen = {
        "image_pixel_values": torch.randn(1, 2, 3, 28, 28, generator=generator),
        "image_sizes": torch.tensor([[28, 28]]),
        "image_attention_mask": torch.ones(1, 2, 2, 2),
    }
    heard = {
        "audio_input_features": torch.randn(1, 16, 16, generator=generator),
        "audio_embed_sizes": torch.tensor([2]),
        "audio_attention_mask": None,
    }
    given = {"image": ([60] * 5, seen), "audio": ([61] * 2, heard), "image+audio": ([60] * 5 + [61] * 2, seen | heard)}
    for mode, (tokens, more) in given.items():
        ids = torch.tensor([[1, *tokens, 5, 9]])
        adapter = ModalityRouter().decide(Inputs.of(mode)).adapter
        with torch.no_grad():
            with active(model, adapter):
                routed = model(input_ids=ids, **more).logits
            with active(model, None):
                alone = model(input_ids=ids, **more).logits
        assert routed.isfinite().all()
        assert not torch.equal(routed, alone)


def test_a_model_is_left_as_it_was(adapted: Any) -> None:
    model = adapted
    with pytest.raises(LoomError, match="has vision, speech"), active(model, "smell"):
        pass
    with active(model, "speech"):
        assert model.active_adapter == "speech"
    assert model.active_adapter == "vision"
    assert not any(value.requires_grad for name, value in model.named_parameters() if ".speech." in name)


def test_adapters_out_of_a_checkpoint_load_onto_transformers_own_class(phi: Any, tmp_path: Path) -> None:
    """From `lora_A.vision` beside base weights, extracted to folders, onto the class that has no remote code."""
    import copy

    from peft import PeftModel

    write_checkpoint(tmp_path / "phi", Phi4(layers=2, width=32, hidden=40, heads=4, key_heads=2, vision=4, speech=6))
    stored = {name: open_adapter(f"{tmp_path}/phi#{name}") for name in ("vision", "speech")}
    folders = {name: save_adapter(adapter, tmp_path / f"{name}-lora") for name, adapter in stored.items()}
    model = PeftModel.from_pretrained(copy.deepcopy(phi), folders["vision"], adapter_name="vision").eval()
    model.load_adapter(folders["speech"], adapter_name="speech")
    for name, adapter in stored.items():
        for module in adapter.modules:
            layer = model.get_base_model().get_submodule(module)
            torch.testing.assert_close(layer.get_delta_weight(name), torch.from_numpy(adapter.delta(module)))
    ids = torch.tensor([[1, 5, 9, 33]])
    with torch.no_grad(), active(model, ModalityRouter().decide(TEXT).adapter):
        assert torch.equal(model(input_ids=ids).logits, phi(input_ids=ids).logits)
