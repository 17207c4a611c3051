"""Every real adapter at hand is opened or refused with the right reason, and survives an export unchanged."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from studio.core.errors import LoomError
from studio.formats import DIALECTS, inspect, open_adapter, save_adapter
from studio.formats.containers.bundle import open_bundle
from studio.formats.saving import relative_error
from tests.contract.account import check_account


@dataclass(frozen=True)
class Expected:
    """What a file must be found to be; `reason` is a part of one finding's text."""

    verdict: str
    dialect: str | None
    ranks: tuple[int, ...] = ()
    modules: int = 0
    reason: str = ""
    scaling: float | None = None


def _peft(verdict: str, rank: int, modules: int, scaling: float, reason: str = "") -> Expected:
    return Expected(verdict, "peft", (rank,), modules, reason, scaling)


_HEAD = "are stored with the LoRA"
TABLE = {
    "bert-base-uncased/cls-r8": _peft("warn", 8, 24, 4, _HEAD),
    "broken/lfs-pointer": Expected("refused", None, reason="Git-LFS pointer"),
    "broken/two-byte-file": Expected("refused", None, reason="holds 2 bytes"),
    "distilgpt2/run-a": _peft("ok", 8, 6, 2),
    "distilgpt2/run-b": _peft("ok", 8, 6, 2),
    "flan-t5-small/email-summary-r8": _peft("ok", 8, 72, 2),
    "gemma-3-270m-it/logo-r4-zouhe": _peft("ok", 4, 72, 4, "path of another machine"),
    "gemma-3-270m-it/svg-r4": _peft("ok", 4, 72, 4),
    "gemma-3-270m-it/svg-r4-seed123": _peft("ok", 4, 72, 4),
    "gpt2/attn-r8-fegbewunmi": _peft("ok", 8, 12, 1),
    "gpt2/causal-attn-r8-ckpt500": _peft("ok", 8, 12, 4),
    "gpt2/causal-attn-r8-ckpt7500": _peft("ok", 8, 12, 4),
    "gpt2/cls-attn-r4-sukhman": _peft("warn", 4, 12, 4, "untrained"),
    "gpt2/cls-attn-r8-anirudh": _peft("warn", 8, 12, 1, _HEAD),
    "gpt2/cls-attn-r8-britter": _peft("warn", 8, 12, 4, _HEAD),
    "gpt2/cls-attn-r8-lmhan": _peft("warn", 8, 12, 1.25, _HEAD),
    "gpt2/cls-attnproj-deepbiolab": _peft("warn", 8, 36, 4, "score.weight"),
    "gpt2/cls-attnproj-gurvineet": _peft("warn", 8, 36, 4, "score.weight"),
    "gpt2/skill-finance": _peft("ok", 8, 36, 4),
    "gpt2/skill-math": _peft("ok", 8, 36, 4),
    "gpt2/skill-med": _peft("ok", 8, 36, 4),
    "gpt2/skill-story": _peft("ok", 8, 36, 2),
    "mistral-7b-mlx/potterbot": Expected("warn", "mlx", (4,), 32, "no config says the scale", 20),
    "opt-125m/lora-bnb4bit": _peft("ok", 8, 24, 1),
    "opt-350m/lora": _peft("ok", 8, 48, 1),
    "phi-1_5/finance-r4": _peft("ok", 4, 48, 2),
    "qwen2.5-0.5b-instruct/qv-r8": _peft("ok", 8, 48, 2),
    "roberta-base/agnews-r2-ckpt2400": _peft("warn", 2, 12, 2, _HEAD),
    "roberta-base/agnews-r2-ckpt500": _peft("warn", 2, 12, 2, _HEAD),
    "roberta-base/agnews-r4-ckpt1200": _peft("warn", 4, 36, 4, "101 full tensors"),
    "sam-vit-b/rank2": Expected("ok", "sam", (4,), 12, "query and value", 1),
    "sam-vit-b/rank4": Expected("ok", "sam", (8,), 12, "query and value", 1),
    "sam-vit-b/rank4-earlier": Expected("ok", "sam", (8,), 12, "query and value", 1),
    "sam-vit-b/rank8": Expected("ok", "sam", (16,), 12, "query and value", 1),
    "sd-v1-5/diffusers-mvclab": Expected("ok", "diffusers", (4,), 128, scaling=1),
    "sd-v1-5/diffusers-skope": Expected("ok", "diffusers", (4,), 128, scaling=1),
    "sd-v1-5/diffusers-timohavdk-2100": Expected("ok", "diffusers", (4,), 128, scaling=1),
    "sd-v1-5/disney": Expected("warn", "cloneofsimo", (1,), 192, "<s1>, <s2>", 1),
    "sd-v1-5/kohya-like-timohavdk": Expected("ok", "kohya", (4,), 128, scaling=1),
    "sd-v1-5/lokr-falcon-16": Expected("ok", "lycoris", (256,), 350, "350 lokr modules are read exactly", 1),
    "sd-v1-5/lokr-falcon-8": Expected("ok", "lycoris", (64,), 350, "350 lokr modules are read exactly", 1),
    "sd-v1-5/oldproc-pokemon": Expected("ok", "diffusers", (4,), 128, scaling=1),
    "sd-v1-5/svd-analog-r4": Expected("ok", "cloneofsimo", (4,), 192, "by position", 1),
    "sd-v2/illust-pt": Expected("ok", "cloneofsimo", (4,), 128, "32 of 128 modules are zero", 1),
    "sd-v2/pop-pt": Expected("ok", "cloneofsimo", (4,), 128, "by position", 1),
    "smollm2-360m/ml-tutor": _peft("ok", 8, 64, 2),
    "smollm2-360m/odd-double-prefix": _peft("ok", 8, 64, 2, "wrapped twice"),
    "toy-peft/lora-conv2d": _peft("ok", 8, 1, 1),
    "toy-peft/lora-mlp": _peft("ok", 8, 1, 1),
    "toy-peft/lora-mlp-modules-to-save": _peft("warn", 8, 1, 1, "lin1.weight"),
    "toy-peft/reject-adalora": Expected("ok", "adalora", (12,), 1, "names no base model", 8 / (12 + 1e-5)),
    "toy-peft/reject-ia3": Expected("refused", "peft", reason="this is IA3, not LoRA"),
    "vit-base-patch16-224/food-r16": _peft("warn", 16, 24, 2, _HEAD),
    "vit-base-patch16-224/in21k-r8": _peft("warn", 8, 24, 4, "untrained"),
    "vit-base-patch16-224/odd-half-lora": Expected("refused", "sam", reason="half an adapter: B (up) is missing"),
    "whisper-base/dysarthric": _peft("ok", 8, 36, 2),
    "whisper-base/dysarthric-full": _peft("ok", 8, 36, 2),
}
OPENED = [name for name, expected in TABLE.items() if expected.verdict != "refused"]


def test_no_real_adapter_is_missing_from_the_table(real_data: Path) -> None:
    root = real_data / "loras"
    assert {file.parent.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()} == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_verdict(real_data: Path, name: str) -> None:
    expected = TABLE[name]
    found = inspect(real_data / "loras" / name)
    assert (found.verdict, found.dialect, found.ranks, len(found.modules)) == (
        expected.verdict,
        expected.dialect,
        expected.ranks,
        expected.modules,
    )
    assert found.scaling == expected.scaling
    assert expected.reason.lower() in " ".join(finding.text for finding in found.findings).lower()
    if expected.verdict == "refused":
        with pytest.raises(LoomError):
            open_adapter(real_data / "loras" / name)


@pytest.mark.parametrize("name", [name for name, expected in TABLE.items() if expected.dialect])
def test_no_other_dialect_claims_it_but_those_that_are_declared(real_data: Path, name: str) -> None:
    bundle = open_bundle(real_data / "loras" / name)
    claims = {id for id, dialect in DIALECTS.items() if dialect.sniff(bundle)}
    own = DIALECTS[TABLE[name].dialect or ""]
    assert own.id in claims <= {own.id, *own.also_claimed_by}


@pytest.mark.parametrize("name", OPENED)
def test_every_tensor_and_every_scaling_is_accounted_for(real_data: Path, name: str) -> None:
    check_account(open_adapter(real_data / "loras" / name), open_bundle(real_data / "loras" / name))


@pytest.mark.parametrize("name", [name for name in OPENED if "lokr" not in name])
def test_an_export_holds_the_same_deltas(real_data: Path, tmp_path: Path, name: str) -> None:
    source = open_adapter(real_data / "loras" / name)
    again = open_adapter(save_adapter(source, tmp_path / "out"))
    assert again.modules.keys() == source.modules.keys()
    assert max(relative_error(source.modules[module], again.modules[module]) for module in source.modules) < 1e-6


@pytest.mark.parametrize("name", [name for name in TABLE if not name.startswith(("sd-v1-5/lokr",))])
def test_a_verdict_takes_less_than_a_second(real_data: Path, name: str) -> None:
    inspect(real_data / "loras" / name)  # the first .bin imports torch
    start = time.thread_time()
    inspect(real_data / "loras" / name)
    assert time.thread_time() - start < 1


def test_two_spellings_of_one_adapter_read_the_same(real_data: Path) -> None:
    kohya = open_adapter(real_data / "loras/sd-v1-5/kohya-like-timohavdk")
    twin = open_adapter(real_data / "loras/sd-v1-5/diffusers-timohavdk-2100")
    assert kohya.modules.keys() == twin.modules.keys()
    for name in twin.modules:
        np.testing.assert_array_equal(kohya.delta(name), twin.delta(name))


def test_every_spelling_of_stable_diffusion_meets_under_one_name(real_data: Path) -> None:
    folders = "diffusers-skope", "oldproc-pokemon", "kohya-like-timohavdk", "svd-analog-r4", "lokr-falcon-8"
    adapters = [open_adapter(real_data / "loras/sd-v1-5" / folder) for folder in folders]
    reference = adapters[0].modules
    for other in adapters[1:]:
        assert reference.keys() <= other.modules.keys()
        assert all(other.modules[name].shape == module.shape for name, module in reference.items())


def test_lokr_equals_its_own_definition(real_data: Path) -> None:
    from safetensors.numpy import load_file

    path = next((real_data / "loras/sd-v1-5/lokr-falcon-8").glob("*.safetensors"))
    raw = {key: value.astype(np.float32) for key, value in load_file(path).items()}
    adapter = open_adapter(path)
    spelled = {
        "unet.down_blocks.0.downsamplers.0.conv": "lora_unet_down_blocks_0_downsamplers_0_conv",
        "text_encoder.text_model.encoder.layers.3.mlp.fc1": "lora_te_text_model_encoder_layers_3_mlp_fc1",
    }
    for name, prefix in spelled.items():
        w1, w2 = (raw[f"{prefix}.lokr_w{i}_a"] @ raw[f"{prefix}.lokr_w{i}_b"] for i in (1, 2))
        scale = float(raw[f"{prefix}.alpha"]) / raw[f"{prefix}.lokr_w2_b"].shape[0]
        np.testing.assert_allclose(adapter.delta(name), scale * np.kron(w1, w2), rtol=1e-4, atol=1e-6)
    conv = adapter.modules["unet.down_blocks.0.downsamplers.0.conv"]
    assert (conv.kind, conv.kernel, conv.d_in) == ("conv", (3, 3), 320 * 9)


def test_sam_halves_become_the_fused_layer(real_data: Path) -> None:
    from safetensors.numpy import load_file

    raw = load_file(real_data / "loras/sam-vit-b/rank2/lora_rank2.safetensors")
    delta = open_adapter(real_data / "loras/sam-vit-b/rank2").delta("image_encoder.blocks.5.attn.qkv")
    assert delta.shape == (3 * 768, 768)
    np.testing.assert_allclose(delta[:768], raw["w_b_010"] @ raw["w_a_010"], rtol=1e-5, atol=1e-7)
    assert not delta[768 : 2 * 768].any()
    np.testing.assert_allclose(delta[2 * 768 :], raw["w_b_011"] @ raw["w_a_011"], rtol=1e-5, atol=1e-7)
