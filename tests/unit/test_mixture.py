"""The embedded mixture: its world, its shipped weights, the rule on it, and its training at a toy size."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from studio.core.errors import LoomError, MissingFile, Refused
from studio.formats import embedded_adapters, open_adapter
from studio.mixture.encoders import audio_features, fresh_weights, image_features, project_audio, project_image
from studio.mixture.merged import SUM, add_merges
from studio.mixture.model import BASE, EMBEDDED, ENCODERS, Mixture, open_mixture, read_encoders
from studio.mixture.routed import CHOICES, Seen, chosen, train_router
from studio.mixture.world import ASPECTS, COLORS, IMAGE_QUESTIONS, Example, Sight, examples, picture, pictures
from studio.routing.modality import MODES, Inputs, ModalityRouter
from studio.routing.train import Settings
from studio.text.bases import open_base
from training.mixture.__main__ import Run
from training.mixture.stages import STAGES, TOY


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    found = open_mixture()
    add_merges(found, names=(SUM,))
    return found


def routed(mixture: Mixture, asked: list[Example]) -> list[str]:
    """Answers under the rule."""
    return mixture.answer(asked, ModalityRouter().decide(asked[0].inputs).adapter)


# The world -----------------------------------------------------------------------------------------------------------


def test_a_sight_says_what_is_asked() -> None:
    sight = Sight(2, "red", "leaf", "blue")
    assert [sight.says(aspect) for aspect in IMAGE_QUESTIONS] == [
        "two red leaves on blue",
        "red",
        "leaf",
        "two",
        "blue",
    ]
    assert Sight(1, "pink", "fish", "gray").says("picture") == "one pink fish on gray"


def test_pictures_show_their_sights() -> None:
    sights, pixels = pictures(40, seed=5)
    assert pixels.shape == (40, 64, 64, 3)
    np.testing.assert_array_equal(pixels, pictures(40, seed=5)[1])
    palette = {name: picture(Sight(1, "red" if name != "red" else "blue", "star", name), 0)[0, 0] for name in COLORS}
    for sight, image in zip(sights, pixels.astype(int), strict=True):
        nearest = min(palette, key=lambda name, at=image[0, 0]: int(np.abs(palette[name] - at).sum()))  # type: ignore[misc]
        assert nearest == sight.ground
        objects = np.abs(image - image[0, 0]).sum(-1) > 40
        assert objects.mean() > 0.02
    more = [(np.abs(picture(Sight(n, "red", "heart", "white"), 1).astype(int) - 247).sum(-1) > 60) for n in (1, 2, 3)]
    assert [_islands(mask) for mask in more] == [1, 2, 3]


def _islands(mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> int:
    """Connected regions of more than a few pixels."""
    left, count = {tuple(at) for at in np.argwhere(mask)}, 0
    while left:
        edge, size = [left.pop()], 0
        while edge:
            y, x = edge.pop()
            size += 1
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= near
            edge += near
        count += size > 8
    return count


def test_examples_of_every_mode() -> None:
    for mode in MODES:
        found = examples(mode, 6, seed=2)
        assert {example.inputs for example in found} == {Inputs.of(mode)}
        again = examples(mode, 6, seed=2)
        assert [(e.prompt, e.answer) for e in found] == [(e.prompt, e.answer) for e in again]
        assert all(example.answer.startswith(" ") for example in found)
    assert set(ASPECTS) < set(IMAGE_QUESTIONS)


def test_encoders_give_tokens_of_the_decoders_width() -> None:
    weights = fresh_weights(torch.Generator().manual_seed(0))
    assert project_image(weights, image_features(weights, torch.rand(2, 3, 64, 64))).shape == (2, 4, 256)
    heard = audio_features(weights, torch.rand(2, 40, 128))
    speech, vision = (project_audio(weights, heard, head) for head in ("speech", "vision"))
    assert speech.shape == (2, 4, 256)
    assert not torch.equal(speech, vision)


# As it ships ---------------------------------------------------------------------------------------------------------


def test_the_assets_are_small_half_precision_and_laid_out_as_phi4s() -> None:
    files = [path for path in EMBEDDED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3 << 20
    assert embedded_adapters(EMBEDDED) == ("speech", "vision")
    for name in ("vision", "speech"):
        adapter = open_adapter(f"{EMBEDDED}#{name}")
        assert (adapter.base, adapter.ranks, len(adapter.modules)) == (BASE, (8,), 56)
        assert {module.dtype for module in adapter.modules.values()} == {"F16"}
        assert not [finding for finding in adapter.findings if finding.level != "note"]
    assert (EMBEDDED / "README.md").read_text().startswith("---\nlicense: apache-2.0")


def test_it_answers_in_every_mode_under_the_rule(mixture: Mixture) -> None:
    """Small samples of what assets/mixture/results.json measures on 200 a mode."""
    stored = json.loads((Path(__file__).parents[2] / "assets" / "mixture" / "results.json").read_text())
    shipped = stored["seeds"][0]["matrix"]
    for mode in MODES:
        asked = examples(mode, 40, seed=4)
        said = routed(mixture, asked)
        right = np.mean([a.strip() == e.answer.strip() for a, e in zip(said, asked, strict=True)])
        spread = 3.5 * (max(shipped[mode]["rule"] * (1 - shipped[mode]["rule"]), 0.02) / 40) ** 0.5
        assert abs(right - shipped[mode]["rule"]) < spread, mode


def test_a_batch_of_all_modes_is_split_and_put_together_again(mixture: Mixture) -> None:
    apart = {mode: examples(mode, 3, seed=6) for mode in MODES}
    mixed = [apart[mode][index] for index in range(3) for mode in MODES]
    said, log = mixture.answer_all(mixed, ModalityRouter())
    assert [decision.adapter for decision in log] == [None, "vision", "speech", "vision"] * 3
    for place, mode in enumerate(MODES):
        assert said[place::4] == routed(mixture, apart[mode])


def test_each_adapter_is_needed(mixture: Mixture) -> None:
    for mode, adapter in (("image", "vision"), ("audio", "speech"), ("image+audio", "vision")):
        asked = examples(mode, 24, seed=4)  # type: ignore[arg-type]
        losses = {name: float(mixture.losses(asked, name).mean()) for name in (None, "vision", "speech")}
        assert min(losses, key=lambda name: losses[name]) == adapter


def test_text_alone_is_the_base_bit_for_bit(mixture: Mixture) -> None:
    base = open_base(BASE).model.to("cpu", torch.float32)
    asked = examples("text", 10, seed=3)
    with torch.no_grad():
        for row in mixture.prompts(asked):
            alone = base(input_ids=torch.tensor([row])).logits[0, -1]
            assert torch.equal(mixture.next_logits(row, ModalityRouter().decide(Inputs()).adapter), alone)
            assert not torch.equal(mixture.next_logits(row, "vision"), alone)


def test_batches_and_threads_do_not_change_answers(mixture: Mixture) -> None:
    seen, heard = examples("image", 6, seed=9), examples("audio", 6, seed=9)
    alone = [mixture.answer([example], "vision")[0] for example in seen]
    assert mixture.answer(seen, "vision") == alone
    expected = {"vision": alone, "speech": mixture.answer(heard, "speech")}
    found: dict[str, list[str]] = {}

    def ask(adapter: str, asked: list[Example]) -> None:
        found[adapter] = mixture.answer(asked, adapter)

    threads = [threading.Thread(target=ask, args=pair) for pair in (("vision", seen), ("speech", heard))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_what_cannot_be_asked_is_refused(mixture: Mixture) -> None:
    with pytest.raises(LoomError, match="different inputs"):
        mixture.answer([*examples("text", 1, 0), *examples("audio", 1, 0)], None)
    with pytest.raises(LoomError, match="has no adapter named smell"):
        mixture.answer(examples("text", 1, 0), "smell")
    with pytest.raises(LoomError, match="decoder reads 256"):
        mixture.answer([Example("word " * 300, "")], None)


def test_parts_that_are_missing_or_strange_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(MissingFile, match=ENCODERS):
        open_mixture(tmp_path)
    save_file({"image.0.weight": torch.zeros(2)}, tmp_path / ENCODERS)
    with pytest.raises(Refused, match="not of this mixture"):
        read_encoders(tmp_path / ENCODERS)


# Routing and training ------------------------------------------------------------------------------------------------


def test_a_router_finds_the_rule_where_losses_show_it() -> None:
    """Made-up features and losses: three kinds of input, each cheap under one choice."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.arange(90) % 3
    features = torch.nn.functional.one_hot(kind, 8).float() + 0.1 * torch.randn(90, 8, generator=generator)
    losses = 1.0 - torch.nn.functional.one_hot(kind, 3).float()
    rows = torch.arange(60), torch.arange(60, 90)
    router = train_router(Seen(features, losses), rows, Settings()).router
    expected = [None if CHOICES[k] == CHOICES[0] else CHOICES[k] for k in kind.tolist()]
    assert chosen(router, features) == expected


def test_training_runs_stops_and_goes_on(tmp_path: Path) -> None:
    """Every stage at a toy size; a run that lost its last stage makes it again from the one before."""
    torch.set_num_threads(1)
    run = Run(tmp_path / "work", TOY, 0)
    run.train()
    run.export(tmp_path / "out")
    first = (tmp_path / "out" / "vision-lora" / "adapter_model.safetensors").read_bytes()
    before = {stage: (run.work / f"{stage}.json").stat().st_mtime_ns for stage in STAGES}
    (run.work / "joint.json").unlink()
    run.train()
    after = {stage: (run.work / f"{stage}.json").stat().st_mtime_ns for stage in STAGES}
    assert [stage for stage in STAGES if before[stage] != after[stage]] == ["joint"]
    run.export(tmp_path / "again")
    assert (tmp_path / "again" / "vision-lora" / "adapter_model.safetensors").read_bytes() == first
    made = open_mixture(tmp_path / "out")
    assert len(made.answer(examples("image+audio", 2, 0), "vision")) == 2
    assert json.loads((tmp_path / "out" / "training.json").read_text())["plan"]["rank"] == TOY.rank
