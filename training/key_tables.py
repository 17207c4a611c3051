"""Write the tables of module names in studio/formats/keys: `python -m training.key_tables`.

Adapter files of image models name modules with underscores, by the original repositories' block numbers or by
position. None of that can be inverted by looking at a name; it is looked up in these tables, which are read off the
model classes themselves. Needs diffusers; takes seconds, no weights are made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import diffusers
import gguf
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

BLOCK = re.compile(r"(?<=\.)\d{1,4}(?=\.)")
KEYS = Path(__file__).parents[1] / "studio" / "formats" / "keys"
CLIP_LAYERS = 32  # the deepest: OpenCLIP bigG of SDXL; the smaller ones are prefixes of it
CLIP_PARTS = ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
FLUX_DOUBLE, FLUX_SINGLE = 19, 38
FLUX_STREAM_PARTS = ("attn.qkv", "attn.proj", "mlp.0", "mlp.2", "mod.lin")
FLUX_SINGLE_PARTS = ("linear1", "linear2", "modulation.lin")
FLUX_ENDS = (
    "img_in txt_in time_in.in_layer time_in.out_layer vector_in.in_layer vector_in.out_layer guidance_in.in_layer "
    "guidance_in.out_layer final_layer.linear final_layer.adaLN_modulation.1"
)
# Transformers of diffusers; those whose defaults leave parts out are told to have them.
TRANSFORMERS: dict[str, dict[str, object]] = {
    "SD3Transformer2DModel": {"dual_attention_layers": (0, 1)},
    "WanTransformer3DModel": {"image_dim": 1280, "added_kv_proj_dim": 5120},
    "FluxTransformer2DModel": {"guidance_embeds": True},
    "QwenImageTransformer2DModel": {},
    "ZImageTransformer2DModel": {},
    "HunyuanVideoTransformer3DModel": {},
    "LTXVideoTransformer3DModel": {},
    "Lumina2Transformer2DModel": {},
    "PixArtTransformer2DModel": {},
    "SanaTransformer2DModel": {},
    "CogVideoXTransformer3DModel": {},
    "Flux2Transformer2DModel": {},
    "ChromaTransformer2DModel": {},
    "AuraFlowTransformer2DModel": {},
    "MochiTransformer3DModel": {},
    "CogView4Transformer2DModel": {},
}
T5_PARTS = (
    "layer.0.SelfAttention.q layer.0.SelfAttention.k layer.0.SelfAttention.v layer.0.SelfAttention.o "
    "layer.1.DenseReluDense.wi_0 layer.1.DenseReluDense.wi_1 layer.1.DenseReluDense.wo"
)
LLM_PARTS = (
    "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj"
)
# Architectures that llama.cpp converts by renaming alone, but for the order of q and k rows; others it rearranges.
GGUF_MODEL_TYPES = (
    "llama qwen2 qwen3 gemma gemma2 gemma3_text phi phi3 gpt2 starcoder2 stablelm olmo2 granite smollm3 arcee"
)
GGUF_NAMES = {"gemma3_text": "gemma3", "phi": "phi2"}


def main() -> None:
    """Write every table."""
    with init_empty_weights():
        sd = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        sdxl = _sdxl_unet()
        flux = FluxTransformer2DModel(guidance_embeds=True)
    unet = dict(_weighted(sd)) | {name: kernel for name, kernel in _weighted(sdxl) if name not in dict(_weighted(sd))}
    _write("unet", [f"{name} {kernel}".strip() for name, kernel in unet.items()])
    _write("unet_ldm", [f"{ldm} {name}" for ldm, name in _ldm_names([sd, sdxl])])
    _write("unet_by_index", list(_by_index(sd)))
    _write("clip_text", [f"text_model.encoder.layers.{i}.{part}" for i in range(CLIP_LAYERS) for part in CLIP_PARTS])
    _write("text_encoders", [*_text_encoders()])
    _write("transformers", [*_transformers()])
    _write("flux", [*(name for name, _ in _weighted(flux)), *_flux_original()])
    _write("gguf", [line for kind in GGUF_MODEL_TYPES.split() for line in _gguf_names(kind)])


def _sdxl_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def _weighted(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Every linear or convolution with its kernel as text ("3 3", empty for a linear)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            yield name, " ".join(map(str, module.kernel_size))
        elif isinstance(module, nn.Linear):
            yield name, ""


def _ldm_names(models: list[UNet2DConditionModel]) -> Iterator[tuple[str, str]]:
    """The original (sgm, LDM) name of each UNet module, from the block layout of openaimodel.UNetModel."""
    seen: set[str] = set()
    for model in models:
        blocks = dict(_ldm_blocks(model))
        for name, _ in _weighted(model):
            block = next((block for block in blocks if name == block or name.startswith(block + ".")), None)
            if block is None:
                continue
            inner = _ldm_inner(name[len(block) :])
            ldm = blocks[block] + inner
            if ldm not in seen:
                seen.add(ldm)
                yield ldm, name


def _ldm_blocks(model: UNet2DConditionModel) -> Iterator[tuple[str, str]]:
    per_level = 3  # two layers and one resampler
    for level, down in enumerate(model.down_blocks):
        for layer in range(len(down.resnets)):
            yield f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{per_level * level + layer + 1}.0"
            if hasattr(down, "attentions"):
                yield f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{per_level * level + layer + 1}.1"
        yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{per_level * (level + 1)}.0.op"
    for level, up in enumerate(model.up_blocks):
        attends = hasattr(up, "attentions")
        for layer in range(len(up.resnets)):
            yield f"up_blocks.{level}.resnets.{layer}", f"output_blocks.{per_level * level + layer}.0"
            if attends:
                yield f"up_blocks.{level}.attentions.{layer}", f"output_blocks.{per_level * level + layer}.1"
        yield f"up_blocks.{level}.upsamplers.0", f"output_blocks.{per_level * level + 2}.{2 if attends else 1}"
    yield "mid_block.resnets.0", "middle_block.0"
    yield "mid_block.attentions.0", "middle_block.1"
    yield "mid_block.resnets.1", "middle_block.2"
    yield "time_embedding.linear_1", "time_embed.0"
    yield "time_embedding.linear_2", "time_embed.2"
    yield "add_embedding.linear_1", "label_emb.0.0"
    yield "add_embedding.linear_2", "label_emb.0.2"
    yield "conv_in", "input_blocks.0.0"
    yield "conv_out", "out.2"


def _ldm_inner(name: str) -> str:
    """Inside a residual block the original has no names, only positions."""
    inner = {
        ".conv1": ".in_layers.2",
        ".time_emb_proj": ".emb_layers.1",
        ".conv2": ".out_layers.3",
        ".conv_shortcut": ".skip_connection",
    }
    return inner.get(name, name)


def _by_index(model: nn.Module) -> Iterator[str]:
    """Layers in the order in which cloneofsimo/lora numbered them: class of the ancestor, name, d_out, d_in.

    That order is diffusers 0.11's registration order, in which a block's feed-forward stood between its two attentions.
    """
    classes = {"Attention": "attention", "GEGLU": "geglu", "ResnetBlock2D": "resnet"}
    ancestors = [(name, module) for name, module in model.named_modules() if type(module).__name__ in classes]
    names = [name for name, _ in ancestors]
    for ancestor, module in sorted(ancestors, key=lambda found: _registered(found[0], names)):
        for name, layer in module.named_modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                d_out, d_in = layer.weight.shape[0], layer.weight[0].numel()
                yield f"{classes[type(module).__name__]} {ancestor}.{name} {d_out} {d_in}"


def _registered(name: str, names: list[str]) -> tuple[int, int]:
    block, found, part = name.partition(".transformer_blocks.0.")
    first = next(index for index, other in enumerate(names) if other.partition(".transformer_blocks.0.")[0] == block)
    return first, ("attn1", "ff", "attn2").index(part.partition(".")[0]) if found else 0


def _flux_original() -> Iterator[str]:
    for block in range(FLUX_DOUBLE):
        for stream in ("img", "txt"):
            yield from (f"double_blocks.{block}.{stream}_{part}" for part in FLUX_STREAM_PARTS)
    for block in range(FLUX_SINGLE):
        yield from (f"single_blocks.{block}.{part}" for part in FLUX_SINGLE_PARTS)
    yield from FLUX_ENDS.split()


def _text_encoders() -> Iterator[str]:
    """T5 and the language models that newer pipelines read text with; `{}` stands for the layer's number."""
    yield from (f"encoder.block.{{}}.{part}" for part in T5_PARTS.split())
    yield from (f"model.layers.{{}}.{part}" for part in LLM_PARTS.split())


def _transformers() -> Iterator[str]:
    """Class and module of every transformer, one line for all blocks; `{}` stands for the block's number."""
    for name, settings in TRANSFORMERS.items():
        with init_empty_weights():
            model = getattr(diffusers, name)(**settings)
        layers = (
            path for path, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d))
        )
        yield from (f"{name} {path}" for path in dict.fromkeys(BLOCK.sub("{}", path, count=1) for path in layers))


def _gguf_names(model_type: str) -> Iterator[str]:
    """Architecture, name of a tensor in GGUF, and transformers' module; `{}` stands for the layer's number."""
    config = AutoConfig.for_model(model_type, num_hidden_layers=1, bos_token_id=None, eos_token_id=None)
    architecture = GGUF_NAMES.get(model_type, model_type)
    known = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(known[architecture], 1)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    for name, module in model.named_modules():
        found = table.get_name(name)
        if found and found != "position_embd" and isinstance(module, (nn.Linear, nn.Embedding, Conv1D)):
            yield f"{architecture} {found.replace('.0.', '.{}.')} {name.replace('.0.', '.{}.')}"


def _write(name: str, lines: list[str]) -> None:
    KEYS.mkdir(exist_ok=True)
    (KEYS / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{name}: {len(lines)} lines")


if __name__ == "__main__":
    main()
