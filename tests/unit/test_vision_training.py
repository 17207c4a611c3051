"""Training: all parameters that should learn do, the written form is the trained one, and the model folder works."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from studio.core.errors import LoomError, MissingFile
from studio.formats import save_adapter
from studio.formats.containers.lorweb_file import PREFIX
from studio.vision import world
from studio.vision.latents import pack, unpack
from studio.vision.pipeline import AnalogyModel, load_embedded
from training.vision.__main__ import with_numbers
from training.vision.basis import Routed, relation_encoder, targets
from training.vision.data import draw_bank
from training.vision.editor import Editor
from training.vision.evaluate import draw_trials, wrong_reference
from training.vision.fit import Group, fit, schedule
from training.vision.run import STAGES, Run
from training.vision.settings import TOY
from training.vision.single import read_single
from training.vision.stages import kinds
from training.vision.transformer import Transformer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder from a few steps of the stages that make one."""
    out = tmp_path_factory.mktemp("vision")
    run = Run(out, replace(TOY, max_steps=3), CPU)
    run.autoencoder()
    run.encoder()
    run.base()
    torch.manual_seed(0)
    from training.vision.stages import build

    model = build(kinds(run.settings)["lorweb"], run.foundation, run.settings, CPU)
    for factor in model.basis():
        torch.nn.init.normal_(factor, std=0.05)
    run._write_basis(model)
    single = build(kinds(run.settings)["single-total"], run.foundation, run.settings, CPU)
    for factor in single.basis():
        torch.nn.init.normal_(factor, std=0.05)
    run._write_single(single)
    return out


@pytest.fixture(scope="module")
def model(folder: Path) -> AnalogyModel:
    return load_embedded(folder)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    batch = world.draw(("hue_shift",), 1, 2, torch.Generator().manual_seed(0))
    pixels = (batch.before[0, 0], batch.after[0, 0], batch.before[0, 1])
    return [Image.fromarray((p.permute(1, 2, 0).numpy() * 255).round().astype("uint8")) for p in pixels]


def test_every_part_of_a_basis_learns() -> None:
    torch.manual_seed(0)
    net = Transformer(TOY.transformer).initialise()
    for name, weight in net.named_parameters():  # past adaLN-zero, where everything is multiplied by zero
        if weight.dim() == 2 and (".norm" in name or name.startswith(("norm_out", "proj_out"))):
            torch.nn.init.normal_(weight, std=0.05)
    model = Routed(net, relation_encoder(), adapters=4, rank=2, key_width=8)
    for layer in model.layers.values():
        torch.nn.init.normal_(layer.up, std=0.05)
    images = torch.rand(2, 3, 64, 64)
    model.route(images, images, images.flip(0))
    prompt = torch.randn(1, 8, TOY.transformer.text_width), torch.randn(1, TOY.transformer.pooled_width)
    Editor(net).loss(torch.randn(2, 8, 16, 16), torch.randn(2, 8, 16, 48), prompt, own_start=True).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    silent = [name for name, p in trained.items() if p.grad is None or not p.grad.abs().sum() > 0]
    # CLIP's own bias on keys cancels in the softmax, and its last norm but one is not read for the pooled token
    assert [name for name in silent if "k_proj.bias" not in name] == []
    assert not any(".base." in name for name in trained)
    assert len(model.layers) == len(targets(Transformer(TOY.transformer)))


def test_a_generator_of_parameters_is_not_used_up() -> None:
    layer = torch.nn.Linear(2, 2)
    group = Group.of(layer.parameters(), 1e-2)
    before = layer.weight.detach().clone()
    fitted = fit("line", [group], lambda progress, step: layer(torch.ones(1, 2)).square().sum(), 10, max_steps=8)
    assert fitted.trainable == 6
    assert not torch.equal(before, layer.weight)


def test_a_group_without_gradient_is_an_error() -> None:
    used, idle = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    groups = [Group.of(used.parameters(), 1e-2), Group.of(idle.parameters(), 1e-2)]
    with pytest.raises(RuntimeError, match="no gradient"):
        fit("line", groups, lambda progress, step: used(torch.ones(1, 2)).sum(), 10, max_steps=2)


def test_the_schedule_rises_and_falls() -> None:
    assert schedule(0.0) < 0.05 < schedule(0.02) < schedule(0.03) == pytest.approx(1.0)
    assert schedule(1.0) == pytest.approx(0.02)


def test_the_bank_leaves_out_what_is_held_out() -> None:
    amounts = replace(TOY, groups=1, pair_groups=1, wide_groups=1, region_groups=1, members=2)
    bank = draw_bank(amounts, seed=0, device=CPU)
    assert len(bank) == len(world.SEEN) + len(world.SEEN_PAIRS) + len(world.WIDE_PAIRS) + len(world.REGIONAL)
    from training.vision.data import TRANSFORM_IDS

    held_out = {TRANSFORM_IDS[name] for name in world.UNSEEN}
    assert held_out.isdisjoint(bank.tasks.flatten().tolist())
    drawn = {tuple(ids) for ids in bank.tasks.tolist()}
    assert not drawn & {tuple(TRANSFORM_IDS[name] for name in pair) for pair in world.UNSEEN_PAIRS}
    first, second = bank.two_members(100)
    assert (first != second).all()


def test_written_and_trained_basis_are_the_same(folder: Path) -> None:
    run = Run(folder, replace(TOY, max_steps=3), CPU)
    trained = run._read_basis()
    stored = load_embedded(folder).basis
    images = torch.rand(3, 1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mix = trained.route(*images)
    assert mix is not None
    with torch.no_grad():
        from training.vision.basis import relation_query

        query = relation_query(trained.encoder, *images)[0]
    expected = dict(zip(trained.layers, mix[:, 0], strict=True))
    for (name, layer), row in zip(stored.layers.items(), stored.coefficients(query), strict=True):
        torch.testing.assert_close(row, expected[name], atol=1e-5, rtol=1e-4)
        routed = trained.layers[name]
        torch.testing.assert_close(layer.stacked_up(), routed.up.detach() * routed.scale)


def test_the_single_lora_is_written_as_an_adapter_of_the_model(folder: Path) -> None:
    trained = Run(folder, replace(TOY, max_steps=3), CPU)._read_single()
    adapter = read_single(folder)
    assert load_embedded(folder).misfit(adapter) == ""
    assert len(adapter.modules) == len(trained.layers)
    for name, layer in trained.layers.items():
        delta = torch.from_numpy(adapter.delta(PREFIX + name))
        torch.testing.assert_close(delta, layer.scale * (layer.up @ layer.down).detach(), atol=1e-6, rtol=1e-4)


def test_stages_side_by_side_lose_none_of_their_figures(tmp_path: Path) -> None:
    first, second = (Run(tmp_path, TOY, CPU) for _ in range(2))
    first._note("lorweb-0", {"steps": 1})
    second._note("single-total-0", {"steps": 2})
    first._score("lorweb-0", {})
    assert second.results["fits"] == {"lorweb-0": {"steps": 1}, "single-total-0": {"steps": 2}}
    assert list(second.results["scores"]) == ["lorweb-0"]


def test_the_sampler_is_the_stock_pipeline_with_the_exported_lora(
    folder: Path, pictures: list[Image.Image], tmp_path: Path
) -> None:
    model = load_embedded(folder)
    seen = model.look(*pictures)
    mix = model.route(seen)
    states: list[torch.Tensor] = []
    model.draw(seen, mix, steps=2, seed=3, on_step=lambda done, steps, picture: states.append(torch.tensor(done)))
    assert [int(state) for state in states] == [1, 2]

    from diffusers import FluxKontextPipeline
    from safetensors.torch import load_file

    absent = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    stock = FluxKontextPipeline.from_pretrained(folder, dtype=torch.float32, **absent)
    stock.set_progress_bar_config(disable=True)
    path = save_adapter(model.lora(mix), tmp_path / "analogy", "peft")
    weights = path if path.suffix == ".safetensors" else next(path.rglob("*.safetensors"))
    exported = {key.removeprefix("base_model.model."): value for key, value in load_file(weights).items()}
    stock.transformer.load_lora_adapter(exported, prefix=None, adapter_name="analogy")
    noise = torch.randn(seen.latents.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        tokens = stock(
            **model.pipeline_inputs(seen),
            num_inference_steps=2,
            latents=pack(noise),
            output_type="latent",
            return_dict=False,
        )[0]
    with torch.inference_mode():
        merged = model._merged(model.basis.deltas(mix))
        from studio.vision.latents import euler

        ours = euler(lambda x, t: model._velocity(x, t, seen.context, merged), noise, 2)
    torch.testing.assert_close(unpack(tokens, 16, 16), ours.clone(), atol=1e-4, rtol=1e-4)


def test_analogies_are_repeatable_and_follow_their_knobs(model: AnalogyModel, pictures: list[Image.Image]) -> None:
    plain = model.analogy(*pictures)
    assert plain.size == (64, 64)
    assert plain.tobytes() == model.analogy(*pictures).tobytes()
    mix = model.coefficients(*pictures)
    assert mix.shape == (len(model.basis.layers), model.basis.size)
    assert plain.tobytes() == model.analogy(*pictures, coeffs=mix).tobytes()
    assert plain.tobytes() != model.analogy(*pictures, seed=1).tobytes()
    off = model.analogy(*pictures, strength=0.0)
    assert off.tobytes() == model.analogy(*pictures, coeffs=mix * 0).tobytes()
    big = [picture.resize((200, 120)) for picture in pictures]
    assert model.analogy(*big).size == (64, 64)


def test_wrong_input_is_refused(model: AnalogyModel, pictures: list[Image.Image], tmp_path: Path) -> None:
    with pytest.raises(LoomError, match="not a picture"):
        model.look("a.png", *pictures[1:])  # type: ignore[arg-type]
    with pytest.raises(LoomError, match="steps"):
        model.analogy(*pictures, steps=0)
    with pytest.raises(LoomError, match="coefficients have shape"):
        model.analogy(*pictures, coeffs=model.coefficients(*pictures)[1:])
    with pytest.raises(MissingFile, match="has no vae"):
        load_embedded(tmp_path)


def test_budgets_are_read() -> None:
    assert with_numbers(TOY, ["base_seconds=7"]).base_seconds == 7
    with pytest.raises(SystemExit):
        with_numbers(TOY, ["nothing=7"])
    assert all(callable(getattr(Run, stage)) for stage in STAGES)


def test_the_control_shows_a_pair_of_another_task() -> None:
    trials = draw_trials("transform", 1, 3, CPU, limit=3)
    a, a2, b, answer = (torch.cat([getattr(t, name) for t in trials]) for name in ("a", "a2", "b", "answer"))
    shown: list[torch.Tensor] = []

    def record(*images: torch.Tensor) -> torch.Tensor:
        shown.extend(images)
        return images[2]

    wrong_reference(record, trials)(a, a2, b, answer)
    per_task = len(trials[0].b)
    assert torch.equal(shown[0][:per_task], trials[-1].a)
    assert torch.equal(shown[1][per_task : 2 * per_task], trials[0].a2)
    assert torch.equal(shown[2], b)
