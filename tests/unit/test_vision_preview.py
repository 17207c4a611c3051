"""The image preview: equal to diffusers' own adapters, gone without a trace, one base for all pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studio.core.adapter import Adapter, in_memory_module
from studio.core.errors import Cancelled, LoomError, NotAtHand, Refused
from studio.formats import save_adapter
from studio.vision.injected import injected, layers_of, place
from studio.vision.preview import ImageBase, Variant, Wish, columns, grid, open_image_base, sheet
from tests.image_bases import BASES, quiet
from tests.pipelines import adapter_for

WISH = Wish("make it blue", steps=2, guidance=2.0, seed=3, size=16)


def scaled(adapter: Adapter, factor: float, name: str) -> Adapter:
    """A quieter adapter: random factors of full size drown the picture."""
    modules = {n: replace(m, scaling=m.scaling * factor) for n, m in adapter.modules.items()}
    return replace(adapter, name=name, modules=modules)


@pytest.fixture(scope="module", params=[*BASES])
def base(request: pytest.FixtureRequest) -> ImageBase:
    return ImageBase(request.param, quiet(BASES[request.param]()))


@pytest.fixture(scope="module")
def two(base: ImageBase) -> tuple[Adapter, Adapter]:
    first, second = adapter_for(base.pipeline), adapter_for(base.pipeline, ranks=(2, 1))
    return scaled(first, 0.02, "one"), scaled(second, -0.03, "two")


def values(base: ImageBase, *adapters: tuple[Adapter, float]) -> np.ndarray[Any, Any]:
    """The picture as numbers in [0, 1], before rounding."""
    picture: Any = base.draw(WISH, Variant("x", adapters), output_type="np")
    return np.asarray(picture)


def test_it_equals_diffusers_own_adapters(base: ImageBase, two: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    ours, alone = values(base, (two[0], 0.7), (two[1], -0.4)), values(base)
    pipeline = base.pipeline
    for adapter in two:
        saved = save_adapter(adapter, tmp_path / adapter.name, "diffusers")
        pipeline.load_lora_weights(saved, adapter_name=adapter.name)
    pipeline.set_adapters(["one", "two"], [0.7, -0.4])
    theirs = np.asarray(pipeline(**base._inputs(WISH), output_type="np").images[0])
    pipeline.unload_lora_weights()
    assert np.abs(ours - theirs).max() <= 1e-5
    assert np.abs(ours - alone).max() > 1e-3
    base.layers = layers_of(pipeline)  # unloading puts the layers back under their names


def test_nothing_is_left_behind(base: ImageBase, two: tuple[Adapter, Adapter]) -> None:
    alone = values(base)
    with pytest.raises(Cancelled):
        base.draw(WISH, Variant("x", ((two[0], 1.0),)), stop=lambda: True)
    hooks = [hook for layer in base.layers.values() for hook in layer._forward_hooks.values()]
    assert not any("injected" in type(hook).__module__ for hook in hooks)
    np.testing.assert_array_equal(values(base), alone)
    np.testing.assert_array_equal(values(base, (two[0], 0.0)), alone)


def test_side_by_side_and_over_a_grid(base: ImageBase, two: tuple[Adapter, Adapter]) -> None:
    merge = scaled(two[0], 0.5, "merge")
    found = dict((v.title, picture) for v, picture in base.side_by_side(WISH, columns([(a, 1.0) for a in two], merge)))
    assert list(found) == ["base", "one", "two", "merge"]
    assert len({picture.tobytes() for picture in found.values()}) == 4
    assert found["merge"].tobytes() == base.draw(WISH, Variant("x", ((two[0], 0.5),))).tobytes()
    rows = [[base.draw(WISH, variant) for variant in row] for row in grid(*two, across=(0.0, 1.0), down=(0.0, 1.0))]
    assert rows[0][0].tobytes() == found["base"].tobytes()
    assert rows[0][1].tobytes() == found["one"].tobytes()
    assert rows[1][0].tobytes() == found["two"].tobytes()
    whole = sheet(rows)
    assert whole.size == (2 * rows[0][0].width, 2 * rows[0][0].height)
    assert whole.crop((0, 0, *rows[0][0].size)).tobytes() == rows[0][0].tobytes()


def test_a_folder_opens_as_a_base_and_draws_the_same(base: ImageBase, tmp_path: Path) -> None:
    base.pipeline.save_pretrained(tmp_path / base.title)
    again = open_image_base(str(tmp_path / base.title), device="cpu")
    assert again.title == base.title
    np.testing.assert_allclose(values(again), values(base), atol=1e-6)


def test_an_adapter_of_another_base_is_refused(base: ImageBase) -> None:
    name = next(name for name, layer in base.layers.items() if isinstance(layer, torch.nn.Linear))
    wrong = in_memory_module(name, np.ones((1, 3), np.float32), np.ones((5, 1), np.float32))
    for modules in ({name: wrong}, {"unet.nowhere": replace(wrong, name="unet.nowhere")}):
        with pytest.raises(LoomError, match="does not fit this base"):
            base.draw(WISH, Variant("x", ((Adapter("odd", modules, "memory"), 1.0),)))


def test_embeddings_take_an_update_of_rows() -> None:
    layer = torch.nn.Embedding(5, 3)
    a, b = np.random.default_rng(0).standard_normal((2, 5)), np.random.default_rng(1).standard_normal((3, 2))
    module = in_memory_module("text_encoder.e", a.astype(np.float32), b.astype(np.float32), 0.5, kind="embedding")
    ids = torch.tensor([[0, 4, 4]])
    plain = layer(ids)
    with injected([(place(Adapter("x", {"text_encoder.e": module}, "memory"), {"text_encoder.e": layer}), 2.0)]):
        found = layer(ids)
    torch.testing.assert_close(found, plain + 2 * torch.from_numpy(module.delta().T)[ids])


@pytest.mark.parametrize(
    "wrong", [{"prompt": " "}, {"steps": 0}, {"guidance": -1.0}, {"seed": -1}, {"size": 17}, {"prompt": "x" * 5000}]
)
def test_wrong_wishes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(LoomError):
        Wish(**{"prompt": "blue", **wrong})


def test_what_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAtHand, match="no base"):
        open_image_base("nowhere at all")
    with pytest.raises(Refused, match=r"no model_index\.json"):
        open_image_base(str(tmp_path))
    (tmp_path / "model_index.json").write_text("[]")
    with pytest.raises(Refused, match="no readable"):
        open_image_base(str(tmp_path))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "NoSuchPipeline"}))
    with pytest.raises(NotAtHand, match="cannot be opened"):
        open_image_base(str(tmp_path))
