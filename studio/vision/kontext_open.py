"""Open FLUX.1-Kontext and a LoRWeB basis: from a folder or the Hub, whole, offloaded or in float8."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from studio.core.errors import LoomError, NotAtHand, Refused
from studio.core.files import local_path
from studio.core.hub_ids import looks_like_id
from studio.core.late import diffusers, torch
from studio.vision.attached import attach
from studio.vision.encoders import check_mode, open_encoder
from studio.vision.kontext import KontextModel, Prompting
from studio.vision.lorweb_file import read_lorweb

Offload = Literal["none", "model", "layer"]
_CLASS = "FluxKontextPipeline"
_MAX_INDEX = 1 << 20


@dataclass(frozen=True, slots=True)
class Placing:
    """Where the model computes, and how it is kept.

    `device` empty is the GPU where there is one. `offload` keeps the parts on the CPU and brings to the device the one
    at work ("model") or layer by layer ("layer"). `float8` stores the transformer's weights in eight bits and computes
    in the device's own type: bfloat16 on a GPU, float32 on a CPU.
    """

    device: str = ""
    offload: Offload = "none"
    float8: bool = False

    @property
    def where(self) -> str:
        """The device's name for torch."""
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        return torch.float32 if self.where == "cpu" else torch.bfloat16


def open_kontext(
    base: str,
    basis: Path,
    *,
    encoder: str = "",
    prompting: Prompting | None = None,
    placing: Placing | None = None,
) -> KontextModel:
    """Open a base by folder or Hub id, attach a basis, and open the encoder that the basis names or `encoder`.

    The basis is read and checked first, since it is the smaller. A base whose folder says how it is quantised is opened
    so. Raises `MissingFile`, `Refused` for what does not belong together, and `NotAtHand` for what cannot be loaded.
    """
    placed = placing or Placing()
    opened = read_lorweb(basis, torch.float16 if placed.where != "cpu" else None)
    check_mode(opened.config.query_mode)
    router = open_encoder(encoder or opened.config.encoder)
    router.check(opened.config.query_mode, opened.query_width)
    pipeline = _pipeline(base, placed)
    attached = attach(pipeline, opened)
    router.model.to(placed.where)
    _place(pipeline, placed)
    pipeline.set_progress_bar_config(disable=True)
    return KontextModel(pipeline, attached, router, prompting or Prompting())


def _pipeline(base: str, placed: Placing) -> Any:
    """The stock pipeline, its transformer and autoencoder with every weight."""
    _check_kind(base)
    try:
        parts = {
            name: _whole(getattr(diffusers, kind), base, name, placed.dtype)
            for name, kind in (("transformer", "FluxTransformer2DModel"), ("vae", "AutoencoderKL"))
        }
        return diffusers.FluxKontextPipeline.from_pretrained(base, dtype=placed.dtype, **parts)
    except LoomError:
        raise
    except Exception as error:  # gated, offline, a missing backend or a broken file: the libraries' types are many
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise NotAtHand(
            f"{base} cannot be opened", reason, "log in and accept its licence on the Hub, or give a whole folder"
        ) from error


def _whole(kind: Any, base: str, subfolder: str, dtype: torch.dtype) -> Any:
    """One part of the base; tensors that are missing would be drawn at random and nobody would know."""
    part, report = kind.from_pretrained(base, subfolder=subfolder, dtype=dtype, output_loading_info=True)
    lacking = sorted(str(key) for key in (*report["missing_keys"], *report["mismatched_keys"]))
    if lacking:
        raise Refused(f"{base} has no whole {subfolder}", f"{lacking[0]} is missing or has another shape")
    return part.eval().requires_grad_(False)


def _check_kind(base: str) -> None:
    """Refuse what is neither a Hub id nor a folder of a FLUX.1-Kontext pipeline."""
    folder = local_path(base)
    if not folder.is_dir():
        if not looks_like_id(base):
            raise NotAtHand(f"There is no base {base}", next="give a folder in diffusers' layout, or a Hub id")
        return
    index = folder / "model_index.json"
    if not index.is_file() or index.stat().st_size > _MAX_INDEX:
        raise Refused(f"{folder.name} is not a diffusers pipeline", "it has no model_index.json")
    try:
        kind = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"{folder.name} has no readable model_index.json", str(error)) from error
    if kind != _CLASS:
        raise Refused(f"{folder.name} is a {str(kind)[:60]}", f"LoRWeB bases are mixed into a {_CLASS}")


def _place(pipeline: Any, placed: Placing) -> None:
    """Bring the pipeline to the device; after the LoRA is in it, which neither float8 nor offloading may touch."""
    if placed.float8:
        pipeline.transformer.enable_layerwise_casting(torch.float8_e4m3fn, placed.dtype)
    if placed.offload == "model":
        pipeline.enable_model_cpu_offload(device=placed.where)
    elif placed.offload == "layer":
        pipeline.enable_sequential_cpu_offload(device=placed.where)
    elif not _is_placed(pipeline):
        pipeline.to(placed.where)


def _is_placed(pipeline: Any) -> bool:
    """Whether the base brought its own places: a device map, or weights that a quantiser has put where they stay."""
    return getattr(pipeline, "hf_device_map", None) is not None or bool(
        getattr(pipeline.transformer, "is_loaded_in_8bit", False)
    )
