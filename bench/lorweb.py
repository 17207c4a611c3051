"""A LoRWeB basis at full FLUX.1-Kontext shapes, random weights: what one request costs before a picture is drawn.

Routing (a query to the mix of all 494 layers), and mixing with writing (the scaled B of every layer, in place), in
seconds and bytes. `--transformer` puts the basis into a random transformer by the stock loader, runs a step of it at
the released resolution, and gives both as a share of one image: for CUDA, since its 24 GB do not fit elsewhere, or
`--tiny` anywhere. Writes bench/results/lorweb.json, on a GPU lorweb_cuda.json, or into $OUT where that is set.

    python -m bench.lorweb
    python -m bench.lorweb --device cuda --transformer
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from bench.synthetic import machine, peak_memory, timed
from studio.vision.attached import Attached, attach
from studio.vision.lorweb import BasisLayer, Lorweb

RESULTS = Path(os.environ.get("OUT", Path(__file__).parent / "results"))
FILES = {"cpu": "lorweb.json", "cuda": "lorweb_cuda.json"}
WIDTH, SIZE, RANK, KEYS, QUERY = 3072, 32, 4, 128, 2304
DOUBLE, SINGLE = 19, 38
TEXT_TOKENS, SIDE_TOKENS = 512, 64  # a side of a 1024 x 1024 picture in tokens; noise and context each have its square
STEPS = 28
TINY = {
    "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "in_channels": 16,
    "joint_attention_dim": 32, "pooled_projection_dim": 16, "axes_dims_rope": (4, 4, 8),
}  # fmt: skip


def shapes() -> Iterator[tuple[str, int, int]]:
    """(module, d_in, d_out) of every adapted linear of FLUX.1-Kontext: 494 of them."""
    w = WIDTH
    for i in range(DOUBLE):
        block = f"transformer_blocks.{i}"
        yield from ((f"{block}.{name}.linear", w, 6 * w) for name in ("norm1", "norm1_context"))
        names = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
        yield from ((f"{block}.attn.{name}", w, w) for name in names)
        for ff in ("ff", "ff_context"):
            yield f"{block}.{ff}.net.0.proj", w, 4 * w
            yield f"{block}.{ff}.net.2", 4 * w, w
    for i in range(SINGLE):
        block = f"single_transformer_blocks.{i}"
        yield f"{block}.norm.linear", w, 3 * w
        yield f"{block}.proj_mlp", w, 4 * w
        yield f"{block}.proj_out", 5 * w, w
        yield from ((f"{block}.attn.{name}", w, w) for name in ("to_q", "to_k", "to_v"))


def random_basis(adapted: Iterable[tuple[str, int, int]], device: str, dtype: torch.dtype) -> Lorweb:
    """A basis of the released size. Layers of a shape share A and B; what routing reads is each layer's own."""
    generator = torch.Generator(device).manual_seed(0)
    made: dict[tuple[int, ...], torch.Tensor] = {}
    layers = {}
    for name, n, m in adapted:
        wanted = ((SIZE, n, RANK), (SIZE, RANK, m), (SIZE, KEYS), (KEYS, QUERY))
        for shape in wanted:
            if shape not in made:
                made[shape] = torch.randn(shape, generator=generator, device=device, dtype=dtype) * 0.02
        down, up, keys, to_q = (made[shape] for shape in wanted)
        layers[name] = BasisLayer(down, up, keys.clone(), to_q.clone())
    return Lorweb(layers)


def random_attached(basis: Lorweb, device: str, dtype: torch.dtype) -> Attached:
    """Stand-ins of the B that PEFT puts into a pipeline: a weight of its own for every module."""
    linears, ups = {}, {}
    for name, layer in basis.layers.items():
        linears[name] = nn.Linear(SIZE * RANK, layer.up.shape[2], bias=False, device=device, dtype=dtype)
        ups[name] = layer.stacked_up().contiguous()
    return Attached(basis, linears, ups)


def random_transformer(tiny: bool, device: str, dtype: torch.dtype) -> FluxTransformer2DModel:
    """FLUX.1-Kontext's transformer with random weights, made where it stays."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            config = TINY if tiny else {"guidance_embeds": True}
            return FluxTransformer2DModel(**config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def adapted_by(model: nn.Module) -> list[tuple[str, int, int]]:
    """(module, d_in, d_out) of every linear inside the blocks."""
    found = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and "transformer_blocks" in n)
    return [(name, layer.in_features, layer.out_features) for name, layer in found]


def step_inputs(model: FluxTransformer2DModel, tiny: bool, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """One denoising step of one picture: noise and context tokens, text, and their places."""
    text, image = (8, 32) if tiny else (TEXT_TOKENS, 2 * SIDE_TOKENS**2)
    like = {"device": device, "dtype": dtype}
    guidance = {"guidance": torch.ones(1, device=device)} if model.config.guidance_embeds else {}
    return {
        "hidden_states": torch.randn(1, image, model.config.in_channels, **like),
        "encoder_hidden_states": torch.randn(1, text, model.config.joint_attention_dim, **like),
        "pooled_projections": torch.randn(1, model.config.pooled_projection_dim, **like),
        "timestep": torch.ones(1, **like),
        "txt_ids": torch.zeros(text, 3, device=device),
        "img_ids": torch.zeros(image, 3, device=device),
        **guidance,
    }


def one_step(model: FluxTransformer2DModel, inputs: dict[str, Any]) -> None:
    """Run the transformer once."""
    with torch.inference_mode():
        model(**inputs)
    wait(inputs["hidden_states"].device)


def wait(device: torch.device) -> None:
    """Let a GPU finish what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def route(basis: Lorweb, query: torch.Tensor) -> torch.Tensor:
    """Routing, finished."""
    mix = basis.coefficients(query)
    wait(query.device)
    return mix


def write(attached: Attached, mix: torch.Tensor) -> None:
    """Mixing and writing, finished."""
    attached.write(mix)
    wait(mix.device)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and bytes of one request, and its share of an image where a transformer is run."""
    device, dtype = options.device, torch.bfloat16 if not options.tiny else torch.float32
    model = random_transformer(options.tiny, device, dtype) if options.transformer or options.tiny else None
    basis = random_basis(shapes() if model is None else adapted_by(model), device, dtype)
    attached = (
        random_attached(basis, device, dtype) if model is None else attach(SimpleNamespace(transformer=model), basis)
    )
    query = torch.randn(QUERY, device=device)
    mix = basis.coefficients(query)
    works = {"route": partial(route, basis, query), "mix_and_write": partial(write, attached, mix)}
    if model is not None:
        works["step"] = partial(one_step, model, step_inputs(model, options.tiny, device, dtype))
    spent = {name: {"seconds": t.wall, "cpu_seconds": t.cpu} for name, t in timed(works, options.repeats).items()}
    request = spent["route"]["seconds"] + spent["mix_and_write"]["seconds"]
    share = request / (request + STEPS * spent["step"]["seconds"]) if model is not None else None
    memory = torch.cuda.max_memory_allocated() if device.startswith("cuda") else peak_memory()
    return {
        "machine": machine(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "modules": len(basis.layers),
        "adapters": basis.size,
        "rank": basis.rank,
        "dtype": str(dtype).removeprefix("torch."),
        "bytes_written": attached.bytes_written,
        "spent": spent,
        "request_seconds": request,
        "share_of_an_image": share,
        "peak_bytes": memory,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.lorweb", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--transformer", action="store_true", help="run a step of the transformer too")
    parser.add_argument("--tiny", action="store_true", help="with a small transformer; nothing is written")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    found = json.dumps(measured(options), indent=1)
    print(found)
    if not options.tiny:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / FILES[torch.device(options.device).type]).write_text(found + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
