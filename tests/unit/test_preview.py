"""The text preview against stock transformers and stock PEFT."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from studio.core.adapter import Adapter, in_memory_module
from studio.core.errors import BadRecipe, LoomError
from studio.core.tensors import in_memory
from studio.text.bases import TextBase
from studio.text.decoding import Chooser, Decoding
from studio.text.preview import Preview, _Draft, open_preview
from studio.text.rows import WrongBase, stack_factors
from tests.text_worlds import adapter, base, peft_logits

PROMPT = "the fox and the"
TARGETS = {
    "llama": [["q_proj", "v_proj"], ["gate_proj", "up_proj", "down_proj", "lm_head"]],
    "gpt2": [["c_attn"], ["c_attn", "c_proj", "c_fc"]],
    "llama-embedding": [["embed_tokens", "o_proj"], ["embed_tokens"]],
    "gpt2-embedding": [["wte", "wpe"], ["wpe", "c_fc"]],
    "gemma3": [["embed_tokens", "q_proj"], ["down_proj"]],
    "opt": [["q_proj", "fc1"], ["fc1", "fc2", "out_proj"]],
    "mamba": [["in_proj"], ["x_proj"]],
}


def cat(weights: list[float], sources: list[Adapter]) -> Adapter:
    """The exact weighted sum: factors side by side."""
    names = dict.fromkeys(name for source in sources for name in source.modules)
    modules = {}
    for name in names:
        held = [(w, source.modules[name]) for w, source in zip(weights, sources, strict=True) if name in source.modules]
        a = np.concatenate([module.A for _, module in held])
        b = np.concatenate([w * module.scaling * module.B for w, module in held], 1)
        modules[name] = in_memory_module(name, a, b, kind=held[0][1].kind)
    return Adapter("merge", modules, "test")


def logits(preview: Preview, merge: Adapter | None, ids: list[int]) -> torch.Tensor:
    rows = len(preview.columns(merge))
    with torch.no_grad():
        found: torch.Tensor = preview._view(merge)(torch.tensor([ids] * rows)).logits
    return found


@pytest.fixture
def pair(tmp_path: Path) -> tuple[TextBase, list[Adapter]]:
    sources = [adapter(tmp_path / str(i), "llama", targets, i, 4 + i) for i, targets in enumerate(TARGETS["llama"])]
    return base("llama"), sources


@pytest.mark.parametrize("case", TARGETS)
def test_every_row_is_what_stock_libraries_compute(case: str, tmp_path: Path) -> None:
    kind = case.partition("-")[0]
    world = base(kind)
    ids = world.encode(PROMPT)
    sources = [adapter(tmp_path / str(i), kind, targets, i, 4 + i) for i, targets in enumerate(TARGETS[case])]
    found = logits(open_preview(world, sources), cat([0.7, -0.4], sources), ids)
    with torch.no_grad():
        stock = world.model(torch.tensor([ids] * 4)).logits
        alone = world.model(torch.tensor([ids])).logits[0]
    assert torch.equal(found[0], stock[0])  # bit for bit in a batch of the same size
    torch.testing.assert_close(found[0], alone, rtol=0, atol=1e-5)  # another batch size rounds otherwise
    for row, name in enumerate(["0", "1"], start=1):
        expected = peft_logits(tmp_path / name, kind, ids)
        assert (expected - alone).abs().max() > 1e-2  # the adapter does something
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", ["llama", "gpt2-embedding"])
def test_the_merge_row_is_the_base_with_the_deltas_added(case: str, tmp_path: Path) -> None:
    kind = case.partition("-")[0]
    world, dense = base(kind), base(kind)
    sources = [adapter(tmp_path / str(i), kind, targets, i) for i, targets in enumerate(TARGETS[case])]
    merge = cat([0.7, -0.4], sources)
    for name, module in merge.modules.items():
        layer, delta = dense.model.get_submodule(name), torch.from_numpy(module.delta())
        transposed = layer.weight.shape != delta.shape or "wte" in name or "wpe" in name or "c_" in name
        # the head is tied to the embedding in these models; an adapter touches one of the two
        layer.weight = torch.nn.Parameter(layer.weight + (delta.T if transposed else delta), requires_grad=False)
    ids = world.encode(PROMPT)
    with torch.no_grad():
        expected = dense.model(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(logits(open_preview(world, sources), merge, ids)[-1], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3", "opt", "mamba"])
def test_greedy_columns_are_what_generate_writes(kind: str, tmp_path: Path) -> None:
    world = base(kind)
    source = adapter(tmp_path, kind, TARGETS[kind][0], 3)
    texts = list(open_preview(world, [source]).generate(PROMPT, source, Decoding(max_tokens=24)))
    ids = torch.tensor([world.encode(PROMPT)])
    stock = world.model.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    assert texts[-1][0] == world.decode(stock.tolist())
    assert texts[-1][1] == texts[-1][2] != texts[-1][0]  # a merge of one source at 1.0 writes what the source writes
    for before, after in pairwise(texts):
        assert all(late.startswith(early) for early, late in zip(before, after, strict=True))


def test_the_base_is_left_as_it_was(pair: tuple[TextBase, list[Adapter]]) -> None:
    world, sources = pair
    before = {name: value.clone() for name, value in world.model.state_dict().items()}
    list(open_preview(world, sources).generate(PROMPT, cat([1, 1], sources), Decoding(max_tokens=3)))
    assert all(torch.equal(value, before[name]) for name, value in world.model.state_dict().items())
    assert not any(module._forward_hooks for module in world.model.modules())


def test_a_view_shares_every_weight(pair: tuple[TextBase, list[Adapter]]) -> None:
    world, sources = pair
    view = open_preview(world, sources)._view(None)
    ours = {name: value.data_ptr() for name, value in world.model.named_parameters()}
    assert {name: value.data_ptr() for name, value in view.named_parameters()} == ours


def test_a_new_weight_changes_the_merge_alone(pair: tuple[TextBase, list[Adapter]]) -> None:
    world, sources = pair
    preview = open_preview(world, sources)
    first, second = (list(preview.generate(PROMPT, cat(w, sources)))[-1] for w in ([1.0, 0.0], [0.0, 1.0]))
    assert first[:3] == second[:3]
    assert (first[3], second[3]) == (first[1], first[2])


def test_threads_share_a_base_without_disturbing_one_another(pair: tuple[TextBase, list[Adapter]]) -> None:
    world, sources = pair
    preview = open_preview(world, sources)
    merges = [cat([w, 1 - w], sources) for w in (0.0, 0.5, 1.0)]
    alone = [list(preview.generate(PROMPT, merge))[-1] for merge in merges]
    together: dict[int, tuple[str, ...]] = {}

    def write(i: int) -> None:
        together[i] = list(preview.generate(PROMPT, merges[i]))[-1]

    threads = [threading.Thread(target=write, args=(i,)) for i in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert [together[i] for i in range(3)] == alone


def test_equal_columns_sample_equal_texts_and_a_seed_repeats_them(pair: tuple[TextBase, list[Adapter]]) -> None:
    world, sources = pair
    preview = open_preview(world, sources)
    sampling = Decoding(max_tokens=30, temperature=0.8, top_p=0.9, seed=5)
    texts = list(preview.generate(PROMPT, sources[0], sampling))[-1]
    assert texts[1] == texts[3] != texts[2]
    assert list(preview.generate(PROMPT, sources[0], sampling))[-1] == texts
    assert list(preview.generate(PROMPT, sources[0], replace(sampling, seed=6)))[-1] != texts
    assert list(open_preview(world, sources[1:]).generate(PROMPT, None, sampling))[-1] == (texts[0], texts[2])


def test_sampling_follows_the_softmax_within_the_nucleus() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    chooser = Chooser(Decoding(temperature=1.0, top_p=0.75, seed=1))
    draws = torch.cat([chooser.choose(logits) for _ in range(4000)])
    shares = torch.bincount(draws, minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.625, 0.375, 0.0, 0.0]), rtol=0, atol=0.03)


def test_a_tiny_nucleus_is_greedy() -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Chooser(Decoding(temperature=2.0, top_p=1e-6)).choose(logits), logits.argmax(-1))


def test_a_character_cut_in_its_bytes_shows_when_it_is_whole() -> None:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    bytewise = tokenizers.Tokenizer(tokenizers.models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    bytewise.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = tokenizers.decoders.ByteLevel()
    spoken = replace(base("llama"), tokenizer=transformers.PreTrainedTokenizerFast(tokenizer_object=bytewise))
    prompt, first, second = spoken.tokenizer("aé")["input_ids"]
    draft = _Draft(spoken, [prompt], 1)
    draft.add([first])
    assert draft.texts(is_partial=True) == ("",)
    draft.add([second])
    assert draft.texts(is_partial=True) == draft.texts(is_partial=False) == ("é",)


def test_it_stops_when_told(pair: tuple[TextBase, list[Adapter]]) -> None:
    world, sources = pair
    asked: list[None] = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 5

    texts = list(open_preview(world, sources).generate(PROMPT, None, Decoding(max_tokens=40, every=1), stop=stop))
    assert len(asked) == 6
    assert max(len(text) for text in texts[-1]) <= 5


def test_a_row_ends_at_an_end_token_while_others_go_on(pair: tuple[TextBase, list[Adapter]]) -> None:
    world, sources = pair
    preview = open_preview(world, sources)
    full = list(preview.generate(PROMPT, None, Decoding(max_tokens=20)))[-1]
    stopper = next(char for char in full[1] if char not in full[0])
    world.model.generation_config.eos_token_id = world.tokenizer.convert_tokens_to_ids(stopper)
    world.tokenizer.add_special_tokens({"eos_token": stopper})
    cut = list(preview.generate(PROMPT, None, Decoding(max_tokens=20)))[-1]
    assert cut[0] == full[0]
    assert cut[1] == full[1][: full[1].index(stopper)]


def test_it_never_writes_past_the_context(pair: tuple[TextBase, list[Adapter]]) -> None:
    world, sources = pair
    preview = open_preview(world, sources)
    texts = list(preview.generate("a" * 60, None, Decoding(max_tokens=500)))[-1]
    assert max(len(text) for text in texts) <= 4
    with pytest.raises(LoomError, match="64 tokens"):
        preview.generate("a" * 64)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mamba"])
def test_perplexity_is_that_of_the_stock_losses(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = base(kind)
    source = adapter(tmp_path, kind, TARGETS[kind][0], 3)
    preview = open_preview(world, [source])
    found = preview.perplexity(PROMPT, source)
    ids = torch.tensor([world.encode(PROMPT)])
    with torch.no_grad():
        stock = world.model(ids, labels=ids).loss.exp().item()
    expected = torch.nn.functional.cross_entropy(peft_logits(tmp_path, kind, ids[0].tolist())[:-1], ids[0, 1:])
    assert found.values == pytest.approx((stock, expected.exp().item(), expected.exp().item()), rel=1e-4)
    assert (found.tokens, found.left_out) == (len(PROMPT) - 1, 0)
    monkeypatch.setattr("studio.text.reading._MAX_LOGITS", 3 * 96 * 4)  # pieces of four tokens
    assert preview.perplexity(PROMPT, source).values == pytest.approx(found.values, rel=1e-4)


def test_perplexity_says_what_it_left_out(pair: tuple[TextBase, list[Adapter]]) -> None:
    preview = open_preview(*pair)
    long, kept = preview.perplexity("ab" * 50), preview.perplexity("ab" * 32)
    assert (long.tokens, long.left_out, long.values) == (63, 36, kept.values)
    with pytest.raises(LoomError, match="too short"):
        preview.perplexity("a")


def test_a_merge_of_another_base_is_refused_with_names(pair: tuple[TextBase, list[Adapter]], tmp_path: Path) -> None:
    world, sources = pair
    foreign = adapter(tmp_path / "foreign", "gpt2", ["c_attn"], 1)
    with pytest.raises(WrongBase, match=r"transformer\.h\.0\.attn\.c_attn"):
        open_preview(world, sources).generate(PROMPT, foreign)
    wide = in_memory_module("model.layers.0.self_attn.q_proj", np.zeros((2, 64), "f4"), np.zeros((32, 2), "f4"))
    with pytest.raises(WrongBase, match=r"q_proj.*\(32, 32\)"):
        open_preview(world, [Adapter("wide", {wide.name: wide}, "test")])
    norm = in_memory_module("model.norm", np.zeros((2, 32), "f4"), np.zeros((32, 2), "f4"))
    with pytest.raises(WrongBase, match="LlamaRMSNorm"):
        open_preview(world, [Adapter("norm", {norm.name: norm}, "test")])


def test_a_broken_update_is_named(pair: tuple[TextBase, list[Adapter]]) -> None:
    world, sources = pair
    with pytest.raises(LoomError, match=r"(?i)merge gives no numbers"):
        list(open_preview(world, sources).generate(PROMPT, cat([1e38, 1e38], sources)))


def test_full_tensors_beside_the_lora_are_named(pair: tuple[TextBase, list[Adapter]]) -> None:
    world, sources = pair
    headed = replace(sources[0], extras={"lm_head.weight": in_memory(np.zeros((96, 32), "f4"))})
    (finding,) = open_preview(world, [headed, sources[1]]).findings
    assert headed.name in finding.text


def test_an_adapter_leaves_zeros_where_it_adapts_nothing(pair: tuple[TextBase, list[Adapter]]) -> None:
    world, sources = pair
    factors = stack_factors(world.model, sources)["model.layers.0.self_attn.q_proj"]
    assert factors.down.shape == (2, 32, 4)
    assert not factors.down[1].any()
    assert not factors.up[1].any()


@pytest.mark.parametrize(
    "wrong", [{"max_tokens": 0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"seed": -1}, {"every": 0}]
)
def test_numbers_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadRecipe, match=f"(?i){next(iter(wrong))}"):
        Decoding(**wrong)  # type: ignore[arg-type]
