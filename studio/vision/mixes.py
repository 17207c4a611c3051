"""The mix of an analogy as a JSON file: each layer's share of every adapter, and what it takes to draw it again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.core.errors import MissingFile, Refused
from studio.core.files import write_atomic
from studio.core.late import torch
from studio.core.outputs import starts_with
from studio.vision.lorweb import Lorweb, effective_size

if TYPE_CHECKING:
    from torch import Tensor

FORMAT, _KIND = 1, "lorweb mix"
_MAX_BYTES = 64 << 20
_NEXT = "give a file that --coeffs wrote"


@dataclass(frozen=True, slots=True)
class Drawn:
    """How a picture was drawn from a mix."""

    base: str
    basis_sha256: str
    steps: int
    seed: int
    strength: float
    temperature: float
    prompt: str = ""
    guidance: float | None = None


def write_mix(path: Path, basis: Lorweb, mix: Tensor, drawn: Drawn) -> None:
    """Write the mix (layers, N) by layer name, with the effective number of adapters (mean over layers)."""
    rows = zip(basis.layers, basis.check(mix).tolist(), strict=True)
    content = {
        "format": FORMAT,
        "kind": _KIND,
        **asdict(drawn),
        "adapters": basis.size,
        "effective_adapters": float(effective_size(mix).mean()),
        "layers": dict(rows),
    }
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def is_mix(path: Path) -> bool:
    """Whether `write_mix` wrote this file."""
    return starts_with(b"{", f'"kind": "{_KIND}"'.encode())(path)


def read_mix(path: Path, basis: Lorweb) -> Tensor:
    """The mix (layers, N) of a file, in the order of the basis.

    Raises `MissingFile` where there is none and `Refused` for one that is broken or of another basis.
    """
    if not path.is_file():
        raise MissingFile(f"There are no coefficients at {path}", next=_NEXT)
    if path.stat().st_size > _MAX_BYTES:
        raise Refused(f"{path.name} is too large for coefficients", f"{path.stat().st_size} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path.name} is not JSON", str(error), _NEXT) from error
    layers = content.get("layers") if isinstance(content, dict) else None
    if not isinstance(layers, dict) or content.get("format") != FORMAT:
        raise Refused(f"{path.name} holds no coefficients of format {FORMAT}", next=_NEXT)
    if layers.keys() != basis.layers.keys():
        odd = sorted(layers.keys() ^ basis.layers.keys())[0]
        raise Refused(f"{path.name} is of another basis", f"they differ in {odd[:80]}", "choose its own basis")
    return torch.tensor([_row(path.name, layers, name, basis.size) for name in basis.layers])


def _row(file: str, layers: Mapping[str, Any], name: str, size: int) -> list[float]:
    row = layers[name]
    if not isinstance(row, list) or len(row) != size:
        raise Refused(f"{file}: {name} has no list of {size} shares", next=_NEXT)
    if not all(type(share) in (int, float) and math.isfinite(share) for share in row):
        raise Refused(f"{file}: {name} holds something other than finite numbers", next=_NEXT)
    return [float(share) for share in row]
