"""The basis: file layout, routing, and the ordinary LoRA that one mix is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.core.errors import LoomError, MissingFile, Refused
from studio.formats.containers.lorweb_file import CONFIG_NAME, PREFIX, WEIGHTS_NAME, is_lorweb
from studio.vision.lorweb import BasisLayer, Lorweb, RoutingConfig, effective_size, einsum_reference
from studio.vision.lorweb_file import read_lorweb, write_lorweb

SIZE, RANK, KEY, QUERY = 5, 2, 4, 6
MODULES = {"transformer_blocks.0.attn.to_q": (8, 12), "single_transformer_blocks.1.proj_out": (10, 8)}


@pytest.fixture
def basis() -> Lorweb:
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for name, (wide_in, wide_out) in MODULES.items():
        shapes = ((SIZE, wide_in, RANK), (SIZE, RANK, wide_out), (SIZE, KEY), (KEY, QUERY))
        layers[name] = BasisLayer(*(torch.randn(shape, generator=generator).half().float() for shape in shapes))
    return Lorweb(layers)


@pytest.fixture
def mix(basis: Lorweb) -> torch.Tensor:
    return basis.coefficients(torch.randn(QUERY, generator=torch.Generator().manual_seed(1)))


def test_the_file_has_the_released_names_and_shapes(basis: Lorweb, tmp_path: Path) -> None:
    state = load_file(write_lorweb(basis, tmp_path))
    assert len(state) == 4 * len(MODULES)
    prefix = "transformer.transformer_blocks.0.attn.to_q."
    assert state[prefix + "lora_A"].shape == (SIZE, 8, RANK)
    assert state[prefix + "lora_B"].shape == (SIZE, RANK, 12)
    assert state[prefix + "lora_keys"].shape == (SIZE, KEY)
    assert state[prefix + "att_lora_to_q.weight"].shape == (KEY, QUERY)
    assert is_lorweb(state)
    assert not is_lorweb(["transformer.x.lora_A.weight", "transformer.x.lora_B.weight"])


def test_reading_gives_back_what_was_written(basis: Lorweb, tmp_path: Path) -> None:
    write_lorweb(Lorweb(basis.layers, RoutingConfig(query_mode="relation-aa'b", encoder="encoder")), tmp_path)
    again = read_lorweb(tmp_path)
    assert (again.size, again.rank, again.query_width) == (SIZE, RANK, QUERY)
    assert (again.config.query_mode, again.config.encoder) == ("relation-aa'b", "encoder")
    assert list(again.layers) == list(MODULES)
    for name, layer in basis.layers.items():
        assert torch.equal(layer.down, again.layers[name].down)
        assert torch.equal(layer.to_q, again.layers[name].to_q)


def test_routing_is_scaled_dot_product_attention_with_the_identity_as_values(basis: Lorweb) -> None:
    query = torch.randn(QUERY, generator=torch.Generator().manual_seed(3))
    for layer, row in zip(basis.layers.values(), basis.coefficients(query), strict=True):
        asked = (layer.to_q @ query)[None, None]
        expected = torch.nn.functional.scaled_dot_product_attention(asked, layer.keys[None], torch.eye(SIZE)[None])
        torch.testing.assert_close(row, expected[0, 0])


def test_temperature_is_a_renormalised_power(basis: Lorweb) -> None:
    query = torch.randn(QUERY, generator=torch.Generator().manual_seed(3))
    plain, warm = basis.coefficients(query), basis.coefficients(query, temperature=2.0)
    torch.testing.assert_close(warm, plain.sqrt() / plain.sqrt().sum(-1, keepdim=True))


def test_one_mix_is_an_ordinary_lora(basis: Lorweb, mix: torch.Tensor) -> None:
    adapter, deltas = basis.as_lora(mix), basis.deltas(mix)
    generator = torch.Generator().manual_seed(4)
    for row, (name, layer) in zip(mix, basis.layers.items(), strict=True):
        x = torch.randn(2, 3, layer.down.shape[1], generator=generator)
        expected = einsum_reference(layer, x, row.expand(2, -1))
        assert adapter.modules[PREFIX + name].rank == SIZE * RANK
        torch.testing.assert_close(x @ torch.from_numpy(adapter.delta(PREFIX + name)).T, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(x @ deltas[name].T, expected, atol=1e-5, rtol=1e-5)


def test_strength_scales_the_update_and_members_are_its_corners(basis: Lorweb, mix: torch.Tensor) -> None:
    half = basis.deltas(mix, strength=0.5)
    corner = torch.zeros_like(mix)
    corner[:, 3] = 1
    for name, whole in basis.deltas(mix).items():
        torch.testing.assert_close(half[name], whole / 2)
        torch.testing.assert_close(torch.from_numpy(basis.member(3).delta(PREFIX + name)), basis.deltas(corner)[name])


def test_effective_size_counts_adapters() -> None:
    rows = torch.tensor([[0.25] * 4, [1.0, 0, 0, 0]])
    torch.testing.assert_close(effective_size(rows), torch.tensor([4.0, 1.0]))


def test_wrong_questions_are_refused(basis: Lorweb, mix: torch.Tensor) -> None:
    with pytest.raises(LoomError, match="query has shape"):
        basis.coefficients(torch.zeros(QUERY + 1))
    with pytest.raises(LoomError, match="not positive"):
        basis.coefficients(torch.zeros(QUERY), temperature=0.0)
    with pytest.raises(LoomError, match="coefficients have shape"):
        basis.deltas(mix[:, 1:])
    with pytest.raises(LoomError, match="finite"):
        basis.deltas(mix * float("nan"))
    with pytest.raises(LoomError, match="no adapter"):
        basis.member(SIZE)


def _damage(state: dict[str, torch.Tensor], how: str) -> None:
    name = "transformer.transformer_blocks.0.attn.to_q"
    if how == "missing":
        del state[f"{name}.lora_B"]
    elif how == "shapes":
        state[f"{name}.lora_B"] = state[f"{name}.lora_B"][:, :1].contiguous()
    elif how == "sizes":
        for part in ("lora_A", "lora_B", "lora_keys"):
            state[f"{name}.{part}"] = state[f"{name}.{part}"][1:].contiguous()
    elif how == "nan":
        state[f"{name}.lora_keys"][0, 0] = float("nan")
    elif how == "plain":
        for key in [key for key in state if key.endswith("lora_keys")]:
            del state[key]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "lacks"),
        ("shapes", "do not fit"),
        ("sizes", "mixes bases"),
        ("nan", "not finite"),
        ("plain", "not a LoRWeB"),
    ],
)
def test_damaged_files_are_refused(basis: Lorweb, tmp_path: Path, how: str, says: str) -> None:
    file = write_lorweb(basis, tmp_path)
    state = load_file(file)
    _damage(state, how)
    save_file(state, file)
    with pytest.raises(Refused, match=says):
        read_lorweb(tmp_path)


def test_configurations_are_checked(basis: Lorweb, tmp_path: Path) -> None:
    write_lorweb(basis, tmp_path)
    (tmp_path / CONFIG_NAME).write_text("[unclosed")
    with pytest.raises(Refused, match="YAML"):
        read_lorweb(tmp_path)
    (tmp_path / CONFIG_NAME).write_text("just a string")
    assert read_lorweb(tmp_path).config == RoutingConfig()
    for kwargs in ({"lora_heads": "one"}, {"lora_heads": 2}, {"query_mode": "no such"}):
        with pytest.raises(Refused):
            RoutingConfig.from_dict({"config": {"process": [{"network": {"network_kwargs": kwargs}}]}})
    with pytest.raises(MissingFile):
        read_lorweb(tmp_path / "nowhere")
    assert (tmp_path / WEIGHTS_NAME).is_file()
