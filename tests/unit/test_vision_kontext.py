"""FLUX.1-Kontext with a released basis, on a small random one in the real layout: equal to the paper's sum."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from PIL import Image

from studio.core.errors import LoomError, NotAtHand, Refused
from studio.formats import open_adapter
from studio.vision.attached import ADAPTER, attach
from studio.vision.encoders import ImageEncoder, composite, open_encoder
from studio.vision.kontext import KontextModel, Prompting, tile_size
from studio.vision.kontext_open import Placing, open_kontext
from studio.vision.lorweb import Lorweb, einsum_reference
from tests.kontext import EMBEDDING, clip_folder, kontext_pipeline, lorweb_folder, lorweb_for, siglip_folder

PROMPTING = Prompting("make it blue", guidance=2.5, side=64)


@dataclass(frozen=True)
class Files:
    base: Path
    basis: Path
    clip: Path

    def open(self, **placing: Any) -> KontextModel:
        return open_kontext(str(self.base), self.basis, prompting=PROMPTING, placing=Placing("cpu", **placing))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    root = tmp_path_factory.mktemp("kontext")
    pipeline = kontext_pipeline()
    pipeline.save_pretrained(root / "base")
    clip = clip_folder(root / "clip")
    return Files(root / "base", lorweb_folder(root / "lorweb", pipeline.transformer, clip), clip)


@pytest.fixture(scope="module")
def model(files: Files) -> KontextModel:
    return files.open()


def noise(seed: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    values = torch.rand(size[1], size[0], 3, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray((values * 255).to(torch.uint8).numpy())


PICTURES = (noise(1), noise(2), noise(3))


def latents(model: KontextModel, steps: int = 2) -> torch.Tensor:
    """What the stock pipeline gives for the model's own arguments, before decoding."""
    inputs = model.inputs(model.look(*PICTURES), steps, 5)
    return model.pipeline(**inputs, output_type="latent").images


@contextmanager
def summed(transformer: Any, basis: Lorweb, mix: torch.Tensor) -> Iterator[None]:
    """The update as the paper states it, added to the output of every adapted linear of the base."""
    transformer.disable_lora()
    hooks = []
    for row, (name, layer) in zip(mix, basis.layers.items(), strict=True):

        def add(module: Any, given: Any, out: Any, layer: Any = layer, row: Any = row) -> Any:
            x = given[0] if given[0].ndim == 3 else given[0][:, None]
            return out + einsum_reference(layer, x, row.expand(x.shape[0], -1)).reshape(out.shape)

        hooks.append(transformer.get_submodule(name).base_layer.register_forward_hook(add))
    yield
    for hook in hooks:
        hook.remove()
    transformer.enable_lora()


@pytest.mark.parametrize("placing", [{}, {"offload": "model"}, {"float8": True}, {"float8": True, "offload": "model"}])
def test_one_lora_is_the_papers_sum_in_the_stock_pipeline(files: Files, placing: dict[str, Any]) -> None:
    model = files.open(**placing)
    assert type(model.pipeline).__name__ == "FluxKontextPipeline"
    seen = model.look(*PICTURES)
    mix = model.route(seen)
    model.attached.write(mix)
    drawn = latents(model)
    model.attached.write(torch.zeros_like(mix))
    untouched = latents(model)
    with summed(model.pipeline.transformer, model.basis, mix):
        expected = latents(model)
    assert (drawn - expected).abs().max() <= 1e-5
    assert (drawn - untouched).abs().max() > 0.1  # the update is seen


def test_a_request_writes_only_the_second_factor(model: KontextModel) -> None:
    transformer, mix = model.pipeline.transformer, model.route(model.look(*PICTURES))
    model.attached.write(mix)
    before = {name: (p.data_ptr(), p.clone()) for name, p in transformer.named_parameters()}
    model.attached.write(mix.flip(-1), strength=0.5)
    for name, parameter in transformer.named_parameters():
        pointer, values = before[name]
        assert parameter.data_ptr() == pointer
        assert torch.equal(parameter, values) == (".lora_B." not in name)
    for row, (name, layer) in zip(mix.flip(-1), model.basis.layers.items(), strict=True):
        written = transformer.get_submodule(name).lora_B[ADAPTER].weight
        torch.testing.assert_close(written, layer.scaled_up(row * 0.5), atol=1e-6, rtol=1e-6)
    assert model.attached.bytes_written == sum(
        p.numel() * 4 for n, p in transformer.named_parameters() if ".lora_B." in n
    )


def test_under_layer_offload_the_kept_copy_is_written(files: Files) -> None:
    pipeline = kontext_pipeline()
    attached = attach(pipeline, lorweb_for(pipeline.transformer))
    cpu_offload(pipeline.transformer, execution_device=torch.device("cpu"))
    mix = torch.rand(len(attached.basis.layers), attached.basis.size)
    attached.write(mix)
    for row, (name, layer) in zip(mix, attached.basis.layers.items(), strict=True):
        linear = attached.linears[name]
        assert linear.weight.is_meta
        torch.testing.assert_close(linear._hf_hook.weights_map["weight"], layer.scaled_up(row))


def test_b2_comes_back_in_bs_shape_and_repeats(model: KontextModel) -> None:
    heard: list[tuple[int, int, object]] = []
    seen = model.look(noise(1, (60, 40)), noise(2, (60, 40)), noise(3, (30, 60)))
    assert seen.grid.size[0] > seen.grid.size[1]
    mix = model.route(seen)
    drawn = model.draw(seen, mix, steps=2, seed=3, on_step=lambda *step: heard.append(step))
    assert drawn.size == tile_size((30, 60), PROMPTING.side, 1)
    assert heard == [(1, 2, None), (2, 2, None)]
    assert drawn.tobytes() == model.draw(seen, mix, steps=2, seed=3).tobytes()
    assert drawn.tobytes() != model.draw(seen, mix, steps=2, seed=3, strength=0.0).tobytes()
    assert drawn.tobytes() != model.told(Prompting("a red house", side=64)).draw(seen, mix, steps=2, seed=3).tobytes()


def test_the_mix_is_asked_with_unnormalised_embeddings_of_each_picture(model: KontextModel) -> None:
    seen = model.look(*PICTURES)
    tiles = [picture.resize((64, 64), Image.Resampling.BICUBIC) for picture in PICTURES]
    torch.testing.assert_close(seen.query, torch.cat([model.encoder.embed([tile])[0] for tile in tiles]))
    assert (model.encoder.embed(tiles).norm(dim=-1) - 1).abs().min() > 1e-3
    torch.testing.assert_close(model.route(seen).sum(-1), torch.ones(len(model.basis.layers)))


def test_query_modes(files: Files, tmp_path: Path) -> None:
    encoder = open_encoder(str(files.clip))
    a, a2, b = PICTURES
    of_a, of_a2, of_b = encoder.embed(PICTURES)
    torch.testing.assert_close(encoder.query("ca'-ca", PICTURES), of_a2 - of_a)
    torch.testing.assert_close(encoder.query("ca'-ca+cb", PICTURES), of_a2 - of_a + of_b)
    grid = composite(PICTURES, corner=b)
    torch.testing.assert_close(encoder.query("aa'bb'", PICTURES), encoder.embed([grid])[0])
    torch.testing.assert_close(encoder.query("caa'", PICTURES), encoder.embed([grid.crop((0, 0, 80, 40))])[0])
    assert composite((a, a2, b), corner=None).getpixel((70, 70)) == (0, 0, 0)
    siglip = open_encoder(str(siglip_folder(tmp_path / "siglip")))
    assert siglip.query("cat-aa'b", PICTURES).shape == (3 * EMBEDDING,)
    with pytest.raises(Refused, match="patch tokens"):
        siglip.check("paa'b*", EMBEDDING)
    with pytest.raises(Refused, match="does not belong"):
        siglip.check("cat-aa'b", 2304)


def test_diffusers_swallows_a_raw_file_and_the_studio_does_not(files: Files) -> None:
    pipeline = kontext_pipeline()
    raw = {"weight_name": files.basis.name, "adapter_name": "raw", "low_cpu_mem_usage": False}
    pipeline.load_lora_weights(files.basis.parent, **raw)
    layer = pipeline.transformer.transformer_blocks[0].attn.to_q
    assert not layer.lora_B["raw"].weight.any()  # loaded without an error, and without an effect
    with pytest.raises(Refused, match="LoRWeB basis"):
        open_adapter(files.basis)


def test_what_does_not_belong_is_refused(files: Files, tmp_path: Path) -> None:
    small = kontext_pipeline()
    basis = lorweb_for(small.transformer)
    with pytest.raises(Refused, match="does not belong to this base"):
        attach(small, Lorweb({"transformer_blocks.9.attn.to_q": next(iter(basis.layers.values()))}))
    other = shutil.copytree(files.base, tmp_path / "other")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(Refused, match="is a StableDiffusionPipeline"):
        open_kontext(str(other), files.basis, placing=Placing("cpu"))
    (other / "model_index.json").write_text("{")
    with pytest.raises(Refused, match="no readable model_index"):
        open_kontext(str(other), files.basis, placing=Placing("cpu"))
    with pytest.raises(NotAtHand, match="no base"):
        open_kontext("nowhere at all", files.basis, placing=Placing("cpu"))
    with pytest.raises(NotAtHand, match="image encoder"):
        open_kontext(str(files.base), files.basis, encoder=str(tmp_path / "none"), placing=Placing("cpu"))


def test_a_quantised_base_without_its_backend_says_so(files: Files, tmp_path: Path) -> None:
    quantised = shutil.copytree(files.base, tmp_path / "quantised")
    path = quantised / "transformer" / "config.json"
    said = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": said}))
    with pytest.raises(NotAtHand, match=r"bitsandbytes|A GPU is needed for quantization"):
        open_kontext(str(quantised), files.basis, placing=Placing("cpu"))


def test_a_base_with_weights_missing_is_refused(files: Files, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(files.base, tmp_path / "broken")
    weights = next((broken / "transformer").glob("*.safetensors"))
    state = load_file(weights)
    del state["proj_out.weight"]
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(Refused, match="proj_out"):
        open_kontext(str(broken), files.basis, placing=Placing("cpu"))


def test_wrong_wishes_are_told(model: KontextModel) -> None:
    seen = model.look(*PICTURES)
    mix = model.route(seen)
    for wrong in ({"steps": 0}, {"steps": 2, "seed": -1}, {"steps": 2, "strength": float("nan")}):
        with pytest.raises(LoomError):
            model.draw(seen, mix, **wrong)
    for kwargs in ({"guidance": -1.0}, {"side": 8}, {"prompt": "x" * 5000}):
        with pytest.raises(LoomError):
            Prompting(**kwargs)
    with pytest.raises(LoomError, match="too narrow"):
        model.look(noise(1, (100, 10)), *PICTURES[1:])
    assert isinstance(model.encoder, ImageEncoder)
