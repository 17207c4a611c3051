"""Scores against greedy decoding, one adapter at a time, and bootstrap intervals against what is known of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from studio.core.adapter import Adapter
from studio.core.errors import Cancelled, LoomError, MissingFile
from studio.evaluation.intervals import mean_interval, ratio_interval, share_interval
from studio.evaluation.score import Score, score, table_of
from studio.evaluation.tasks import REAL, BadTask, Task, file_task, named_task, real_task, real_tasks, skill_task
from studio.text.bases import TextBase
from studio.text.preview import open_preview
from studio.text.skills import Item
from tests.text_worlds import LETTERS, adapter, base

PROMPTS = ("the fox", "a", "the fox and the hen", "b c d")


@pytest.fixture
def world(tmp_path: Path) -> tuple[TextBase, list[Adapter]]:
    sources = [adapter(tmp_path / name, "llama", ["q_proj", "up_proj"], i, 3 + i) for i, name in enumerate("ab")]
    return base("llama"), sources


def written(world: TextBase, variant: Adapter | None, prompt: str, n: int) -> list[int]:
    """The first tokens that greedy decoding writes after a prompt, the end token included."""
    view = open_preview(world, [variant] if variant else [])._view(None)
    ids: list[int] = world.encode(prompt)
    start = len(ids)
    with torch.no_grad():
        while len(ids) < start + n and ids[-1] not in world.end_tokens:
            ids = [*ids, int(view(torch.tensor([ids] * (2 if variant else 1))).logits[-1, -1].argmax())]
    return ids[start:]


def test_exact_match_is_what_greedy_decoding_writes(world: tuple[TextBase, list[Adapter]]) -> None:
    lm, sources = world
    end = min(lm.end_tokens)
    with torch.no_grad():
        lm.model.lm_head.weight[end] *= 6  # so that some texts end
    ended, checked = 0, 0
    for variant in (None, *sources):
        for prompt in (*PROMPTS, *LETTERS[33:59]):
            tokens = written(lm, variant, prompt, 5)
            answer = lm.decode([token for token in tokens if token != end])
            rest = lm.tokenizer(answer, add_special_tokens=False)["input_ids"]
            if rest and rest == [token for token in tokens if token != end]:
                right = score(lm, Task("t", (Item(prompt, answer), Item(prompt, answer + "~"))), [variant])[0].right
                follows = written(lm, variant, prompt, len(rest) + 1)
                assert list(right) == [follows == [*rest, end], False]
                ended, checked = ended + int(right[0]), checked + 1
    assert 0 < ended < checked


def test_even_odds_are_the_loss_of_the_vocabulary(world: tuple[TextBase, list[Adapter]]) -> None:
    lm, _ = world
    with torch.no_grad():
        lm.model.lm_head.weight.zero_()
    (found,) = score(lm, Task("t", (Item("ab", " c"),)), [None])
    assert found.figure == 0
    assert found.loss == pytest.approx(np.log(96))


def test_all_variants_by_one_batch_equal_each_alone(world: tuple[TextBase, list[Adapter]]) -> None:
    lm, sources = world
    items = tuple(Item(prompt, f" {i}{i}{'x' * i}") for i, prompt in enumerate(PROMPTS * 9))
    together = score(lm, Task("t", items), [sources[0], None, sources[1]])
    for variant, whole in zip([sources[0], None, sources[1]], together, strict=True):
        single = [score(lm, Task("t", (item,)), [variant])[0] for item in items[:5]]
        np.testing.assert_allclose(whole.nats[:5], [one.nats[0] for one in single], rtol=1e-4)
        np.testing.assert_array_equal(whole.tokens[:5], [one.tokens[0] for one in single])
    assert not np.allclose(together[0].nats, together[1].nats)


@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_other_models_give_the_likelihood_of_stock_logits(kind: str) -> None:
    lm = base(kind)
    (found,) = score(lm, Task("t", (Item("", "the fox and"), Item("", "hen")), "perplexity"), [None])
    for i, text in enumerate(["the fox and", "hen"]):
        ids = lm.encode(text)
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids])).logits[0, :-1]
        nats = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum")
        assert found.nats[i] == pytest.approx(float(nats), rel=1e-4)
    assert found.figure == pytest.approx(np.exp(found.nats.sum() / found.tokens.sum()))


def test_items_that_do_not_fit_are_left_out_and_counted(world: tuple[TextBase, list[Adapter]]) -> None:
    lm, _ = world
    (found,) = score(lm, Task("t", (Item("a" * 80, "b"), Item("a", "b"))), [None])
    assert (found.left_out, len(found.right)) == (1, 1)
    with pytest.raises(LoomError, match="No item"):
        table_of(lm, [Item("a" * 80, "b")])
    (text,) = score(lm, Task("t", (Item("", "a" * 80),), "perplexity"), [None])
    assert text.tokens[0] == lm.context - 1  # a text is cut instead


def test_scoring_stops_and_tells_its_progress(world: tuple[TextBase, list[Adapter]]) -> None:
    lm, _ = world
    task = Task("t", tuple(Item("a" * (i % 40), "b") for i in range(1, 300)))
    steps: list[tuple[int, int]] = []
    score(lm, task, [None], on_step=lambda done, total, name: steps.append((done, total)))
    assert len(steps) > 1
    assert steps[-1] == (299, 299)
    with pytest.raises(Cancelled):
        score(lm, task, [None], stop=lambda: len(steps) > 1)


def test_interval_of_a_mean_is_the_binomial_one() -> None:
    values = np.array([1.0] * 60 + [0.0] * 40)
    found = mean_interval(values, seed=3)
    assert found.value == 0.6
    assert found == mean_interval(values, seed=3)
    assert found.low == pytest.approx(0.6 - 1.96 * 0.049, abs=0.015)
    assert found.high == pytest.approx(0.6 + 1.96 * 0.049, abs=0.015)


def test_interval_grows_with_the_spread_of_seeds() -> None:
    rng = np.random.default_rng(0)
    alike = (rng.random((3, 200)) < 0.5).astype(float)
    apart = (rng.random((3, 200)) < np.array([[0.2], [0.5], [0.8]])).astype(float)
    narrow, wide = mean_interval(alike), mean_interval(apart)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert np.isnan(mean_interval(np.zeros(0)).value)
    assert ratio_interval(np.array([2.0, 4.0]), np.array([1.0, 2.0])).low == 2


def test_ten_of_ten_is_no_proof() -> None:
    found = share_interval(np.ones(10))
    assert (found.value, found.high) == (100, 100)
    assert found.low == pytest.approx(69.2, abs=0.1)  # Clopper and Pearson's table
    assert share_interval(np.zeros((3, 10))) == pytest.approx((0, 0, 30.8), abs=0.1)  # seeds are no new items
    mixed = np.array([1.0, 0.0, 1.0, 1.0])
    assert share_interval(mixed) == mean_interval(mixed).scaled(100)


def test_a_score_knows_its_interval() -> None:
    nats, tokens = np.array([1.0, 3.0]), np.array([1.0, 3.0])
    assert Score("t", "perplexity", np.zeros(2), nats, tokens, 0).interval().value == pytest.approx(np.e)
    assert Score("t", "exact", np.array([1.0, 0.0]), nats, tokens, 0).interval() == (50, 0, 100)


def test_tasks_by_name(tmp_path: Path) -> None:
    assert named_task("math+shout:kept", 5).items == skill_task("math+shout", "kept", 5).items
    with pytest.raises(BadTask, match="no split"):
        named_task("math:nowhere")
    with pytest.raises(BadTask, match="0 items of math"):
        named_task("math", 0)
    with pytest.raises(MissingFile, match="neither a skill nor a file"):
        named_task(str(tmp_path / "gone.jsonl"))


def test_own_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "2+2=", "answer": "4"}\n\n{"prompt": "1+1=", "answer": " 2"}\n')
    found = file_task(file)
    assert (found.name, found.kind, [item.answer for item in found.items]) == ("mine", "exact", [" 4", " 2"])
    assert found.sample(1, seed=0) == found.sample(1, seed=0)
    file.write_text('{"text": "once"}\n')
    assert file_task(file).kind == "perplexity"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty"),
        ("nonsense", "Line 1"),
        ('{"prompt": "a"}', "no item"),
        ('{"prompt": 3, "answer": "b"}', "no item"),
        ('{"prompt": "a", "answer": "b"}\n{"text": "c"}', "mixes"),
        ("[" * 10000, "Line 1"),
    ],
)
def test_own_files_that_are_no_task(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(content)
    with pytest.raises(BadTask, match=said):
        file_task(file)


def test_code_is_read_and_never_run(tmp_path: Path) -> None:
    file = tmp_path / "humaneval.jsonl"
    poison = f"    open({str(tmp_path / 'ran')!r}, 'w')\n"
    file.write_text(json.dumps({"prompt": "def f():\n", "canonical_solution": poison, "test": poison}))
    found = real_task(file)
    assert found.kind == "perplexity"
    assert "no code is executed" in found.note
    score(base("llama"), Task("t", (Item("def f():", " x"),)), [None])
    assert not (tmp_path / "ran").exists()


def test_a_set_of_another_shape_is_refused(tmp_path: Path) -> None:
    for name, content in (("boolq-test.json", "{}"), ("gsm8k-test.jsonl", "{}"), ("AQuA-test.json", "[3]")):
        (tmp_path / name).write_text(content)
        with pytest.raises(BadTask):
            real_task(tmp_path / name)


@pytest.mark.real
@pytest.mark.skipif("LOOM_REAL_DATA" not in os.environ, reason="LOOM_REAL_DATA is not set")
def test_every_real_set_is_read() -> None:
    found = real_tasks(Path(os.environ["LOOM_REAL_DATA"]) / "eval")
    assert len(found) == len(REAL)
    assert {task.name: len(task.items) for task in found}["gsm8k-test"] == 1319
    assert all(item.answer.strip() for task in found for item in task.items)
