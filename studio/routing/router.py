"""A router: from what an input looks like to the adapters that answer it, and how much of each.

Its scores are P (x - center) / scale, where center and scale make the features it was trained on have mean 0 and mean
square norm 1: the paper's P x with a bias, and one learning rate for any base. What the features are is the caller's
affair: text (`studio.routing.text`), pictures, sounds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from studio.core.errors import BadRecipe, Refused
from studio.core.files import write_atomic
from studio.core.late import torch
from studio.core.tensors import open_safetensors
from studio.routing.kinds import RouterKind, kind_by_id
from studio.routing.policy import log_policy

if TYPE_CHECKING:
    from torch import Tensor

Granularity = Literal["sequence", "token"]

BASE: Final = "(base)"
"""The name of a choice that is no adapter: the base model as it is."""
_FORMAT: Final = "lora-loom-router-1"
_MAX_BYTES: Final = 256 << 20
_MAX_NAMES: Final = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Router:
    """n choices by name, and one row of scores for each in every group: `weight` (G, n, D), float32.

    A shared router has one group; one for each layer has the layers' names as `groups`. `kind`, an id of
    `studio.routing.kinds`, says how scores become mixing weights; whichever it is, they sum to k * omega. `reads` says
    what the features are, `base` the model, as its user names both. Raises `BadRecipe` for a kind that is not known,
    and for numbers that do not fit together.
    """

    names: tuple[str, ...]
    weight: Tensor
    center: Tensor
    scale: Tensor
    k: int = 1
    omega: float = 1.0
    kind: str = "remix"
    granularity: Granularity = "sequence"
    groups: tuple[str, ...] = ("all",)
    reads: str = "features"
    base: str | None = None

    def __post_init__(self) -> None:
        count, (groups, n, width) = len(self.names), self.weight.shape
        if not 2 <= count <= _MAX_NAMES or len(set(self.names)) != count:
            raise BadRecipe(f"A router cannot choose among {count} adapters", "it takes 2 to 1024, each named once")
        if not 1 <= self.k <= count:
            raise BadRecipe(f"k is {self.k}", f"it lies between 1 and the number of choices, {count}")
        if not 0 < abs(self.omega) <= 100:
            raise BadRecipe(f"omega is {self.omega:g}", "it is a weight of at most 100, and not 0")
        kind_by_id(self.kind)
        if self.granularity not in get_args(Granularity):
            raise BadRecipe(f"A router cannot choose by {self.granularity!r}", "it chooses by sequence or by token")
        fits = (groups, n) == (len(self.groups), count) and self.center.shape == (groups, width)
        if not fits or self.scale.shape != (groups,):
            raise BadRecipe("The router's tensors do not fit together", f"its weight is {tuple(self.weight.shape)}")

    @property
    def rule(self) -> RouterKind:
        """Its kind: how a policy becomes mixing weights."""
        return kind_by_id(self.kind)

    @property
    def width(self) -> int:
        """How many features it reads."""
        return int(self.weight.shape[-1])

    def log_policy(self, x: Tensor, group: int = 0, clip: float | None = None) -> Tensor:
        """log q (..., n) for features x (..., D); the logits cut at +-`clip` where one is given."""
        y = (x.float() - self.center[group]) / self.scale[group]
        return log_policy(y @ self.weight[group].T, clip)

    def given(self, chosen: Tensor) -> Tensor:
        """The weights (..., n) of a selection (..., k): omega for the chosen."""
        shape = (*chosen.shape[:-1], len(self.names))
        return torch.zeros(shape, device=chosen.device).scatter(-1, chosen, self.omega)

    def mix(self, log_q: Tensor) -> Tensor:
        """The mixing weights (..., n) of inference."""
        return self.omega * self.rule.weights(log_q, self.k)

    def route(self, x: Tensor, group: int = 0) -> Tensor:
        """The mixing weights (..., n) for features (..., D)."""
        return self.mix(self.log_policy(x, group))

    def to(self, device: Any) -> Router:
        """The same on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})

    def save(self, path: Path) -> Path:
        """Write it as one safetensors file with its description as metadata."""
        from safetensors.numpy import save

        tensors = {name: getattr(self, name).detach().cpu().float().numpy() for name in _TENSORS}
        tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        about = {name: getattr(self, name) for name in _ABOUT}
        write_atomic(path, save(tensors, {"format": _FORMAT, "router": json.dumps(about)}))
        return path


_TENSORS: Final = ("weight", "center", "scale")
_ABOUT: Final = ("names", "groups", "k", "omega", "kind", "granularity", "reads", "base")


def fresh(
    names: Sequence[str], features: Sequence[Tensor], *, start: float = 0.1, seed: int = 0, **about: Any
) -> Router:
    """An untrained router for features like these, one (count, D) for each group: P ~ N(0, start^2).

    `about` are the other fields of `Router`.
    """
    seen = [feature.detach().float() for feature in features]
    center = torch.stack([feature.mean(0) for feature in seen])
    spread = [(feature - c).square().sum(-1).mean().sqrt() for feature, c in zip(seen, center, strict=True)]
    scale = torch.stack(spread).clamp_min(1e-6)
    generator = torch.Generator().manual_seed(seed)
    weight = start * torch.randn(len(seen), len(names), center.shape[-1], generator=generator)
    return Router(tuple(names), weight.to(center.device), center, scale, **about)


def load_router(path: Path) -> Router:
    """Read a router back; raises `Refused` for a file that is none, or not a whole and finite one."""
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        raise Refused(f"{path.name} is not a router", "there is no such file, or it is larger than 256 MiB")
    file = open_safetensors(path)
    if file.metadata.get("format") != _FORMAT:
        raise Refused(f"{path.name} is not a router", f"its metadata do not say {_FORMAT}", "train and save one first")
    if set(file.tensors) != set(_TENSORS) or any(ref.dtype != "F32" for ref in file.tensors.values()):
        raise Refused(f"{path.name} is not a complete router", f"it holds {', '.join(sorted(file.tensors)[:5])}")
    tensors = {name: torch.from_numpy(np.array(ref.read())) for name, ref in file.tensors.items()}
    if tensors["weight"].ndim != 3 or not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise Refused(
            f"{path.name} is not a complete router",
            "its numbers are not finite, or its weight does not have three dimensions",
        )
    if not bool((tensors["scale"] > 0).all()):
        raise Refused(f"{path.name} is not a complete router", "a scale is not above 0")
    try:
        return Router(**{**_about(file.metadata["router"]), **tensors})
    except (BadRecipe, KeyError, TypeError, ValueError, RecursionError) as error:
        raise Refused(f"{path.name} is not a complete router", str(error)) from error


def is_router(path: Path) -> bool:
    """Whether this is a router that the studio wrote."""
    try:
        load_router(path)
    except Refused:
        return False
    return True


def _about(text: str) -> Mapping[str, Any]:
    """The description, every field of its own type; raises `ValueError` or `KeyError`."""
    found = json.loads(text)
    if not isinstance(found, dict) or set(found) != set(_ABOUT):
        raise ValueError("its description has other fields")
    strings = all(isinstance(found[name], str) for name in ("kind", "granularity", "reads"))
    lists = all(
        isinstance(found[name], list) and all(isinstance(word, str) for word in found[name])
        for name in ("names", "groups")
    )
    numbers = type(found["k"]) is int and type(found["omega"]) in (int, float) and math.isfinite(found["omega"])
    if not (strings and lists and numbers and isinstance(found["base"], str | None)):
        raise ValueError("a field of its description is of another type")
    return {**found, "names": tuple(found["names"]), "groups": tuple(found["groups"])}
