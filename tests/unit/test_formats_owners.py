"""Files written by the libraries that own their format, read with equal deltas; PEFT's are in test_formats_peft."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from studio.formats import open_adapter
from tests.pipelines import flux, loaded_deltas


@pytest.mark.parametrize("with_header", [True, False])
def test_reads_what_diffusers_saved(tmp_path: Path, with_header: bool) -> None:
    pipeline = flux()
    alpha = 6 if with_header else 3  # without a header the file cannot say another alpha than the rank
    pipeline.transformer.add_adapter(
        LoraConfig(r=3, lora_alpha=alpha, target_modules=["to_q", "to_add_out", "proj_mlp"])
    )
    for name, parameter in pipeline.transformer.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    config = {"r": 3, "lora_alpha": alpha, "peft_type": "LORA"} if with_header else None
    layers = get_peft_model_state_dict(pipeline.transformer)
    FluxPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers, transformer_lora_adapter_metadata=config)
    adapter, expected = open_adapter(tmp_path), loaded_deltas(pipeline)
    assert adapter.dialect == "diffusers"
    assert adapter.modules.keys() == expected.keys()
    for name, delta in expected.items():
        np.testing.assert_allclose(adapter.delta(name), delta, rtol=1e-4, atol=1e-5)


def test_reads_what_mlx_trained(tmp_path: Path) -> None:
    mx = pytest.importorskip("mlx.core", exc_type=ImportError)
    tuner = pytest.importorskip("mlx_lm.tuner.utils")
    from mlx.utils import tree_flatten
    from mlx_lm.models import llama

    sizes = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 11, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "model_type": "llama"}
    model = llama.Model(llama.ModelArgs.from_dict({**sizes, **heads}))
    model.freeze()
    parameters = {"rank": 3, "scale": 7.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.up_proj"]}
    tuner.linear_to_lora_layers(model, 1, parameters)
    mx.random.seed(0)
    trained = {name: mx.random.normal(value.shape) for name, value in tree_flatten(model.trainable_parameters())}
    model.load_weights(list(trained.items()), strict=False)
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), trained)
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": parameters}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    adapter = open_adapter(tmp_path)
    layers = {name: layer for name, layer in model.named_modules() if "lora_a" in layer}
    assert adapter.modules.keys() == layers.keys()
    assert set(layers) == {"model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"}
    for name, layer in layers.items():
        expected = np.array(layer.scale * (layer.lora_a @ layer.lora_b).T)
        np.testing.assert_allclose(adapter.delta(name), expected, rtol=1e-4, atol=1e-5)
