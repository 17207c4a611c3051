"""DoRA with its base's weights at hand: the plain update that it amounts to, exactly.

DoRA's layer computes with W' = m (W + dW) / ||W + dW||, the norm taken row by row; so its update is W' - W, which has
no low rank: every row of W is scaled. As a pair it takes the rank of the layer, and a merge by `svd` cuts it and says
what that keeps. Without the base nothing of this is known, and DoRA is refused. Source: arXiv 2402.09353; PEFT divides
by the norm of W + dW, as here, and not by that of W.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from studio.core.account import ScalingSource, TensorRow
from studio.core.adapter import Adapter, Finding, LoraModule
from studio.core.errors import LoomError, MissingFile, Refused
from studio.core.tensors import Array, TensorFile, TensorRef, open_tensors
from studio.formats.containers.bundle import Bundle, open_bundle
from studio.formats.detection import read_as
from studio.formats.dialects import DIALECTS
from studio.formats.modules.peft_keys import canonical_name

_MAGNITUDES = (".lora_magnitude_vector.weight", ".lora_magnitude_vector.default.weight", ".lora_magnitude_vector")


def open_dora(path: str | Path, base: str | Path) -> Adapter:
    """Open a PEFT DoRA adapter as plain updates of the base whose weights lie in `base`, a file or a folder of
    safetensors.

    Raises `Refused` where it is not a DoRA of linear layers, `LoomError` where the base lacks a layer or one of another
    shape, `MissingFile` where nothing is.
    """
    bundle = open_bundle(Path(path).expanduser())
    magnitudes, plain = _parted(bundle)
    if not magnitudes:
        raise Refused(
            f"{bundle.name} is not a DoRA", "it holds no lora_magnitude_vector", "open it as any other adapter"
        )
    adapter = read_as(DIALECTS["peft"], plain)
    shards = _shards(Path(base).expanduser())
    weights = {key: tensor for shard in shards for key, tensor in shard.tensors.items()}
    modules = {
        name: _plain(module, magnitudes[name], _weight_of(name, weights)) if name in magnitudes else module
        for name, module in adapter.modules.items()
    }
    said = Finding("note", f"{len(magnitudes)} DoRA modules are read as their exact update of the base that was given")
    files = (*bundle.files, *(file for shard in shards for file in shard.files))
    rows = tuple(TensorRow(tensor.key, "module", (name,)) for name, tensor in magnitudes.items())
    findings = (*adapter.findings, said)
    return replace(adapter, modules=modules, findings=findings, files=files, tensors=adapter.tensors + rows)


@dataclass(frozen=True, slots=True, eq=False)
class _Update:
    """Reads W' - W as a pair whose smaller side is the identity."""

    module: LoraModule
    magnitude: TensorRef
    weight: TensorRef

    def __call__(self) -> tuple[Array, Array]:
        """A (r, d_in) and B (d_out, r) with r the smaller of the two."""
        w = self.weight.read().astype(np.float64)
        w = w if w.shape == self.module.shape else w.T
        moved = w + self.module.delta()
        m = self.magnitude.read().astype(np.float64).reshape(-1)
        update = np.asarray(moved * (m / np.linalg.norm(moved, axis=1))[:, None] - w, np.float32)
        d_out, d_in = update.shape
        identity = np.eye(min(d_out, d_in), dtype=np.float32)
        return (update, identity) if d_out <= d_in else (identity, update)


def _parted(bundle: Bundle) -> tuple[dict[str, TensorRef], Bundle]:
    """The magnitudes by module, and the adapter as it would be without them."""
    magnitudes: dict[str, TensorRef] = {}
    rest: dict[str, TensorRef] = {}
    for key, tensor in bundle.tensors.items():
        ending = next((ending for ending in _MAGNITUDES if key.endswith(ending)), None)
        if ending is None:
            rest[key] = tensor
        else:
            magnitudes[canonical_name(key.removesuffix(ending))] = tensor
    config = None if bundle.config is None else {**bundle.config, "use_dora": False}
    return magnitudes, Bundle(bundle.path, bundle.weights, TensorFile(rest, bundle.metadata), config)


def _plain(module: LoraModule, magnitude: TensorRef, weight: TensorRef) -> LoraModule:
    if module.kind != "linear":
        raise Refused(f"{module.name} is DoRA on a {module.kind} layer", "only linear layers are undone here")
    if weight.shape not in (module.shape, module.shape[::-1]) or magnitude.size != module.d_out:
        shapes = f"the adapter has {module.shape}, the base {weight.shape}, the magnitude {magnitude.shape}"
        raise LoomError(f"{module.name} does not fit the base", shapes, "give the base that it was trained on")
    load = _Update(module, magnitude, weight)
    return replace(
        module,
        rank=min(module.shape),
        scaling=1.0,
        load=load,
        origin="dora",
        stored_alpha=None,
        keys=(*module.keys, magnitude.key),
        source=ScalingSource(f"the update itself, in which {module.source.text}"),
    )


def _shards(base: Path) -> list[TensorFile]:
    """The base's files; headers alone are read."""
    files = sorted(base.glob("*.safetensors")) if base.is_dir() else [base]
    if not files or not all(file.is_file() for file in files):
        raise MissingFile(f"{base} holds no safetensors", next="give the file or folder of the base's weights")
    return [open_tensors(file) for file in files]


def _weight_of(name: str, weights: Mapping[str, TensorRef]) -> TensorRef:
    """A layer's weight; checkpoints leave out or add the first segments of a path (`transformer.`, `model.`)."""
    segments = name.split(".")
    for start in range(len(segments)):
        tail = ".".join(segments[start:]) + ".weight"
        found = [key for key in weights if key == tail or key.endswith(f".{tail}")]
        if len(found) == 1:
            return weights[found[0]]
    raise LoomError(f"The base has no layer {name}", "its weights name other layers", "give the base it was trained on")
