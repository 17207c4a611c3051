"""Tiny random causal models, their tokenizer and PEFT adapters, for the tests of the text preview."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import tokenizers
import torch
import transformers

from studio.core.adapter import Adapter
from studio.formats import open_adapter
from studio.text.bases import Base, TextBase

VOCABULARY = 96
LETTERS = [chr(32 + code) for code in range(90)]


def tokenizer() -> Any:
    """One token a printable character, with <s> and </s>."""
    words = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", *LETTERS])}
    split = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    split.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    split.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=split, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=64
    )


def model(kind: str, seed: int = 0) -> Any:
    """A random model of two layers, width 32, context 64."""
    torch.manual_seed(seed)
    common = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2}
    llama = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    configs: dict[str, Any] = {
        "llama": lambda: transformers.LlamaConfig(**common, **llama, num_key_value_heads=2, max_position_embeddings=64),
        "gpt2": lambda: transformers.GPT2Config(**common, n_embd=32, n_layer=2, n_head=4, n_positions=64),
        "opt": lambda: transformers.OPTConfig(
            **common, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=64, init_std=0.2, dropout=0.0,
        ),
        "gemma3": lambda: transformers.Gemma3TextConfig(
            **common, **llama, num_key_value_heads=2, head_dim=8, max_position_embeddings=64, sliding_window=8
        ),
        "mamba": lambda: transformers.MambaConfig(
            **common, hidden_size=32, state_size=4, num_hidden_layers=2, max_position_embeddings=64
        ),
    }  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(configs[kind]()).eval().requires_grad_(False)


def base(kind: str, seed: int = 0) -> TextBase:
    """A tiny open base."""
    return TextBase(Base(f"tiny/{kind}", None, kind), model(kind, seed), tokenizer())


def adapter(folder: Path, kind: str, targets: list[str], seed: int, rank: int = 4) -> Adapter:
    """A random PEFT adapter of that kind's base, saved by stock PEFT into `folder` and opened by the studio."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=rank, lora_alpha=3 * rank, target_modules=targets, init_lora_weights=False)
    wrapped = peft.get_peft_model(model(kind), config)
    for name, value in wrapped.named_parameters():
        if "lora_" in name:
            value.data.normal_(0.0, 0.15)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    return open_adapter(folder)


def peft_logits(folder: Path, kind: str, ids: list[int]) -> torch.Tensor:
    """What stock PEFT computes for the saved adapter, (T, vocabulary)."""
    wrapped = peft.PeftModel.from_pretrained(model(kind), folder).eval()
    with torch.no_grad():
        logits: torch.Tensor = wrapped(torch.tensor([ids])).logits[0]
    return logits
