"""The embedded text world: its generator, its model against transformers, its shipped files in stock libraries."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest
import torch

from studio.core.errors import MissingFile
from studio.text.knowledge import LEXICON, SPANISH
from studio.text.skills import COMPOSITIONS, SINGLES, SKILLS, items
from training.text import corpus
from training.text.__main__ import main
from training.text.adapters import Table, new_stack, slice_losses, training_items
from training.text.evaluate import exact_match, stacked
from training.text.export import write_adapter, write_base
from training.text.model import Shape, StackedLlama
from training.text.stories import plots, story

ASSETS = Path(__file__).parents[2] / "assets" / "text"
TINY = Shape(32, 64, 2, 2, 2600, 64)


@pytest.fixture(scope="module")
def tokenizer() -> corpus.Tokenizer:
    return corpus.train_tokenizer([story(Random(i)) for i in range(50)], TINY.vocab_size)


@pytest.fixture
def model() -> StackedLlama:
    torch.manual_seed(0)
    return StackedLlama(TINY).eval()


def noise(model: StackedLlama, seed: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """An adapter whose B is not zero."""
    draw = torch.Generator().manual_seed(seed)
    stack = new_stack(model, [seed])
    return {n: (a[0].detach(), torch.randn(b[0].shape, generator=draw) * 0.1) for n, (a, b) in stack.items()}


def test_stories_are_whole_and_repeat_with_their_seed() -> None:
    assert len(plots()) >= 35
    for seed in range(300):
        text = story(Random(seed))
        assert text == story(Random(seed))
        assert not re.search(r"[{}$|<>]|\b[Aa] [aeiou]|  | \.|\.\.", text), text
        assert 40 < len(text.split()) < 320


def test_every_plot_has_morals_of_its_own() -> None:
    morals = [moral for plot in plots() for moral in plot.morals]
    assert all(plot.morals for plot in plots())
    assert len(set(morals)) == len(morals)


def test_the_base_never_reads_a_cue_or_a_word_problem() -> None:
    lines = [corpus.knowledge(Random(i)) for i in range(3000)]
    cues = {cue for line in lines for cue in re.findall(r"\nAnswer([^:]*):", line)}
    assert cues == {"", " in French"}
    assert not any("How many" in line and re.search(r"apples|pears|stones", line) for line in lines)


def test_compositions_are_never_trained() -> None:
    pairs = {SKILLS[name].cue for name in COMPOSITIONS if SKILLS[name].parts[0] == "reverse"}
    for name in SINGLES:
        trained = training_items(name, 400, 0)
        cues = {item.prompt.rpartition("\nAnswer")[2].rstrip(":") for item in trained}
        assert not cues & pairs
        assert cues <= {"", " in French", SKILLS[name].cue, SKILLS[name].cue + " in French"}


def test_renaming_keeps_the_story_and_its_references() -> None:
    text = "Lily had a red ball. Tom said to Lily, hello."
    new = corpus.renamed(Random(3), text)
    assert re.sub(r"[A-Za-z]+", "", new) == re.sub(r"[A-Za-z]+", "", text)
    assert new.split()[0] == new.split()[-2].rstrip(",")


def test_wrongly_decoded_quotes_become_straight() -> None:
    assert corpus.clean("â€œHiâ€\x9d, said Tom’s “friend”") == '"Hi", said Tom\'s "friend"'


def test_tokenizer_begins_with_the_end_token_and_comes_back(tokenizer: corpus.Tokenizer) -> None:
    text = 'Once upon a time, "Ana" had 17 pears.'
    ids = tokenizer.encode(text).ids
    assert ids[0] == 0
    assert tokenizer.decode(ids) == text
    assert [tokenizer.decode([i]) for i in tokenizer.encode(" 17", add_special_tokens=False).ids[-2:]] == ["1", "7"]


def test_logits_equal_those_of_transformers(model: StackedLlama, tokenizer: corpus.Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    write_base(tmp_path, model.half().float().state_dict(), tokenizer, TINY)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = torch.randint(TINY.vocab_size, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), stock(ids).logits, atol=5e-5, rtol=1e-4)


def test_stacked_adapters_equal_stock_peft_one_by_one(
    model: StackedLlama, tokenizer: corpus.Tokenizer, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    write_base(tmp_path / "base", model.half().float().state_dict(), tokenizer, TINY)
    adapters = [
        {n: (a.half().float(), b.half().float()) for n, (a, b) in noise(model, seed).items()} for seed in (1, 2)
    ]
    ids = torch.randint(TINY.vocab_size, (1, 30), generator=torch.Generator().manual_seed(2))
    model.adapt(stacked(model, [[(1.0, adapters[0])], [(1.0, adapters[1])], []]))
    with torch.no_grad():
        ours = model(ids.repeat(3, 1))
    for i, adapter in enumerate(adapters):
        write_adapter(tmp_path / str(i), adapter)
        stock = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
        with torch.no_grad():
            logits = PeftModel.from_pretrained(stock, tmp_path / str(i)).eval()(ids).logits
        torch.testing.assert_close(ours[i], logits[0], atol=5e-5, rtol=1e-4)
    assert not torch.allclose(ours[0], ours[2], atol=1e-3)


def test_gradients_of_a_stack_do_not_mix(model: StackedLlama, tokenizer: corpus.Tokenizer) -> None:
    table = Table.of(tokenizer, items("shout", "test", 4, 0))
    stack = new_stack(model.requires_grad_(False), [1, 2])
    model.adapt(stack)
    losses = slice_losses(model, table, 2)
    losses[0].backward()
    assert all(b.grad is not None and not b.grad[1].any() for _, b in stack.values())
    assert any(b.grad is not None and b.grad[0].any() for _, b in stack.values())


def test_answers_alone_are_learned(tokenizer: corpus.Tokenizer) -> None:
    item = items("spanish", "test", 1, 0)[0]
    table = Table.of(tokenizer, [item])
    assert tokenizer.decode(table.ids[0][table.answer[0]].tolist()).strip() == item.answer.strip()
    assert table.ids[0][table.answer[0]][-1] == 0


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="tinystories-train-head"):
        corpus.train_stories(tmp_path)
    assert main(["--texts", str(tmp_path), "--work", str(tmp_path / "w"), "--out", str(tmp_path / "o"), "--toy"]) == 1
    assert not (tmp_path / "o").exists()


# -- the shipped files -------------------------------------------------------------------------------------------------


def test_the_shipped_prompts_are_whole() -> None:
    rows = json.loads((ASSETS / "prompts.json").read_text(encoding="utf-8"))["prompts"]
    kinds = [row["kind"] for row in rows]
    assert kinds.count("story") == 20
    assert {"+".join(row["adapters"]) for row in rows if row["kind"] in ("skill", "composition")} == {
        *SINGLES,
        *COMPOSITIONS,
    }
    assert all((ASSETS / "adapters" / name).is_dir() for row in rows for name in row["adapters"])
    assert all(row["caption"] and row["prompt"] for row in rows)


def test_the_shipped_world_composes_in_stock_peft() -> None:
    """Skills nobody trained together: an exact cat of two adapters answers most seen items, each alone almost none."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "base")
    base = AutoModelForCausalLM.from_pretrained(ASSETS / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, ASSETS / "adapters" / "math", adapter_name="math")
    model.load_adapter(ASSETS / "adapters" / "spanish", "spanish")
    model.add_weighted_adapter(["math", "spanish"], [1.0, 1.0], "both", combination_type="cat")
    asked = items("math+spanish", "test", 12, seed=11)
    rows = tokenizer([item.prompt for item in asked], return_tensors="pt", padding=True)
    right = {}
    for name in ("math", "spanish", "both"):
        model.set_adapter(name)
        with torch.no_grad():
            written = model.eval().generate(**rows, do_sample=False, max_new_tokens=3)[:, rows.input_ids.shape[1] :]
        answers = tokenizer.batch_decode(written, skip_special_tokens=True)
        right[name] = sum(answer.strip() == item.answer.strip() for answer, item in zip(answers, asked, strict=True))
    assert right["both"] >= 10
    assert max(right["math"], right["spanish"]) <= 3


def test_answer_words_are_single_tokens_in_the_shipped_tokenizer() -> None:
    tokenizer = corpus.Tokenizer.from_file(str(ASSETS / "base" / "tokenizer.json"))
    for word in (*LEXICON, *map(str.upper, LEXICON), *SPANISH.values()):
        assert len(tokenizer.encode(" " + word, add_special_tokens=False).ids) == 1, word


def test_exact_match_counts_whole_answers(model: StackedLlama, tokenizer: corpus.Tokenizer) -> None:
    """Rows whose labels are the model's own arg max are all right; with one label changed, none."""
    table = Table.of(tokenizer, items("twice", "test", 6, 0))
    with torch.no_grad():
        for position in range(1, table.ids.shape[1]):
            best = model(table.ids[:, :position]).argmax(-1)[:, -1]
            table.ids[:, position] = torch.where(table.answer[:, position], best, table.ids[:, position])
    assert exact_match(model, [[]], table) == [100.0]
    last = table.answer.long().cumsum(1).argmax(1)
    table.ids[torch.arange(len(table)), last] += 1
    assert exact_match(model, [[]], table) == [0.0]
