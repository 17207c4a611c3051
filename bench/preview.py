"""How fast the text preview is: the first text after a weight change, and tokens a second beside stock PEFT.

    python -m bench.preview [--columns 4 6 10] [--tokens 64] [--repeats 5] [--base FOLDER]

Columns are the base, the sources (random, rank 8, all linear layers) and their `cat` merge of rank 8 n. A weight change
costs compose (`compose_ms`), then the preview makes one row of factors, reads the prompt and gives the first text
(`first_text_ms`). Speed does not depend on what the weights say: without the embedded base a random model of its size
does. Stock PEFT is measured in the same run, as one `generate` a column and as one mixed batch (`adapter_names`).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import peft
import torch
import transformers

import studio
from studio.core.adapter import Adapter
from studio.text.bases import Base, TextBase, is_at_hand, open_base
from studio.text.decoding import Decoding
from studio.text.folders import EMBEDDED
from studio.text.preview import Preview, open_preview

PROMPT = "Once upon a time, there was a little fox who"
RANK = 8
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def stand_in() -> TextBase:
    """A random Llama of the embedded base's size (7.5 M parameters) with a tokenizer of one token a word."""
    import tokenizers

    config = transformers.LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=None,
    )
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: index for index, word in enumerate(["?", *PROMPT.split()])}, unk_token="?")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", model_max_length=512)
    return TextBase(Base("stand-in", None, "random stand-in"), model, tokenizer)


def random_adapters(base: TextBase, count: int, folder: Path) -> tuple[Any, list[Adapter]]:
    """`count` random adapters, held by stock PEFT with their merge as "merge", and opened by the studio."""
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS, init_lora_weights=False)
    stock = peft.get_peft_model(Preview(base, (), {})._view(None), config, adapter_name="a0")
    for index in range(1, count):
        stock.add_adapter(f"a{index}", config)
    for name, value in stock.named_parameters():
        if "lora_" in name:
            value.data.normal_(0.0, 0.01)
    stock.save_pretrained(folder, save_embedding_layers=False)
    names = [f"a{index}" for index in range(count)]
    stock.add_weighted_adapter(names, [1.0 / count] * count, "merge", combination_type="cat")
    return stock.eval().requires_grad_(False), [studio.open_adapter(folder / name) for name in names]


@dataclass(frozen=True)
class Spent:
    """Median seconds of a piece of work: by the clock, and of the processor, which neighbours disturb less."""

    wall: float
    cpu: float


def timed(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Spent]:
    """Time each piece of work in turn, `repeats` rounds after one to warm up, so that a busy spell hits all alike."""
    rounds: dict[str, list[Spent]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            rounds[name].append(Spent(time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: Spent(median(spent.wall for spent in taken[1:]), median(spent.cpu for spent in taken[1:]))
        for name, taken in rounds.items()
    }


def first_texts(preview: Preview, merge: Adapter) -> None:
    """What the preview does after a weight change: a row of factors from the new merge, the prompt, one token."""
    next(preview.generate(PROMPT, merge, Decoding(max_tokens=2)))


def write(preview: Preview, merge: Adapter, tokens: int) -> None:
    """All columns by one batch, streamed to the end."""
    for _ in preview.generate(PROMPT, merge, Decoding(max_tokens=tokens)):
        pass


def one_by_one(stock: Any, base: TextBase, columns: Sequence[str], tokens: int) -> None:
    """One stock `generate` a column, the adapters switched between them."""
    ids = torch.tensor([base.encode(PROMPT)])
    for column in columns:
        if column == "base":
            with stock.disable_adapter():
                _generate(stock, ids, tokens)
        else:
            stock.set_adapter(column)
            _generate(stock, ids, tokens)


def mixed_batch(stock: Any, base: TextBase, columns: Sequence[str], tokens: int) -> None:
    """PEFT's own mixed batch: one `generate`, an adapter's name a row."""
    ids = torch.tensor([base.encode(PROMPT)] * len(columns))
    rows = ["__base__" if column == "base" else column for column in columns]
    _generate(stock, ids, tokens, adapter_names=rows)


def _generate(stock: Any, ids: torch.Tensor, tokens: int, **options: Any) -> None:
    with torch.inference_mode():
        stock.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            pad_token_id=0,
            **options,
        )


def measure(base: TextBase, columns: int, tokens: int, repeats: int) -> dict[str, float]:
    """All figures for one number of columns."""
    with tempfile.TemporaryDirectory() as folder:
        stock, sources = random_adapters(base, columns - 2, Path(folder))
        preview = open_preview(base, sources)
        count = len(sources)
        weights = [1.0 / count] * count
        compose = partial(studio.merge, sources, method="cat", weights=weights)
        merge = compose()
        names = ["base", *(f"a{index}" for index in range(count)), "merge"]
        first = timed({"compose": compose, "text": partial(first_texts, preview, merge)}, 3 * repeats)
        whole = timed(
            {
                "ours": partial(write, preview, merge, tokens),
                "one_by_one": partial(one_by_one, stock, base, names, tokens),
                "mixed_batch": partial(mixed_batch, stock, base, names, tokens),
            },
            repeats,
        )
    written = columns * tokens
    return {
        "columns": columns,
        "compose_ms": 1e3 * first["compose"].wall,
        "first_text_ms": 1e3 * first["text"].wall,
        "first_text_cpu_ms": 1e3 * first["text"].cpu,
        "tokens_per_second": written / whole["ours"].wall,
        "tokens_per_cpu_second": written / whole["ours"].cpu,
        "peft_one_by_one_per_cpu_second": written / whole["one_by_one"].cpu,
        "peft_mixed_batch_per_cpu_second": written / whole["mixed_batch"].cpu,
        "times_one_by_one_cpu": whole["one_by_one"].cpu / whole["ours"].cpu,
        "times_mixed_batch_cpu": whole["mixed_batch"].cpu / whole["ours"].cpu,
    }


def main() -> None:
    """Measure and print one row a number of columns; the same as JSON in bench/results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, nargs="+", default=[4, 6, 10])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--base", default=EMBEDDED)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    base = open_base(options.base) if is_at_hand(options.base) else stand_in()
    base.model.generation_config.eos_token_id = None  # every row writes all its tokens
    base.tokenizer.eos_token = None
    print(f"{base.base.title}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    rows = [measure(base, columns, options.tokens, options.repeats) for columns in options.columns]
    for row in rows:
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    out = Path(__file__).parent / "results" / "preview.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(
        json.dumps({"base": base.base.title, "threads": torch.get_num_threads(), "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
