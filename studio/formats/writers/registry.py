"""The formats an adapter can be exported in: the one list of writers, for the page, the command line and the docs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from studio.core.adapter import Adapter
from studio.formats.containers.bundle import CONFIG
from studio.formats.containers.safetensors_file import SaveDtype
from studio.formats.dialects import diffusers, gguf, kohya, mlx, peft
from studio.formats.writers import diffusers as diffusers_write
from studio.formats.writers import gguf as gguf_write
from studio.formats.writers import kohya as kohya_write
from studio.formats.writers import mlx as mlx_write
from studio.formats.writers import peft as peft_write

BaseConfig = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Writer:
    """One format: what it is called, which files it makes in the folder, what it cannot carry, who reads it.

    `check(adapter, base_config)` raises `LoomError` for what the format cannot hold; `write` fills an existing folder;
    `dialect` reads the folder back.
    """

    title: str
    files: tuple[str, ...]
    cannot_carry: str
    dialect: ModuleType
    check: Callable[[Adapter, BaseConfig], None]
    write: Callable[[Adapter, Path, SaveDtype, BaseConfig], None]
    needs_base_config: bool = False


WRITERS: Mapping[str, Writer] = MappingProxyType(
    {
        "peft": Writer(
            "PEFT folder",
            (CONFIG, peft_write.WEIGHTS),
            "nothing that is read here",
            peft,
            peft_write.check,
            peft_write.write,
        ),
        "diffusers": Writer(
            "diffusers (one file, for image pipelines)",
            (diffusers_write.WEIGHTS,),
            "language models; embeddings; heads and other full tensors",
            diffusers,
            diffusers_write.check,
            diffusers_write.write,
        ),
        "kohya": Writer(
            "kohya (one file, for ComfyUI and sd-scripts)",
            (kohya_write.WEIGHTS,),
            "models other than Stable Diffusion, SDXL and FLUX; embeddings; heads and other full tensors",
            kohya,
            kohya_write.check,
            kohya_write.write,
        ),
        "mlx": Writer(
            "MLX folder (for Apple silicon)",
            (CONFIG, mlx_write.WEIGHTS),
            "image pipelines; convolutions; heads and other full tensors",
            mlx,
            mlx_write.check,
            mlx_write.write,
        ),
        "gguf": Writer(
            "GGUF (for llama.cpp)",
            (gguf_write.WEIGHTS,),
            "architectures that llama.cpp rearranges; convolutions; heads and other full tensors",
            gguf,
            gguf_write.check,
            gguf_write.write,
            needs_base_config=True,
        ),
    }
)
