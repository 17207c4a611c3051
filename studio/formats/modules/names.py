"""One name for each module of a diffusion pipeline, however a file spells it.

The name is the component (unet, transformer, text_encoder, ...) and the diffusers path in it. Underscores and original
block numbers are looked up in the tables of studio/formats/keys (written by training/key_tables.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources
from typing import NamedTuple

COMPONENTS = ("unet", "transformer", "transformer_2", "text_encoder", "text_encoder_2", "text_encoder_3")

# Prefixes of underscored names (kohya sd-scripts, LyCORIS, OneTrainer) and the component each stands for.
_UNDERSCORED = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
    "lora_transformer_": "transformer",
    "lora_text_encoder_": "text_encoder",
    "lora_prior_unet_": "prior",
    "lora_prior_te_": "text_encoder",
    "lycoris_": "unet",
}
_FLUX_ROOTS = (
    "double_blocks",
    "single_blocks",
    "img_in",
    "txt_in",
    "time_in",
    "vector_in",
    "guidance_in",
    "final_layer",
)
# Files of one component have no prefix; what the path begins with tells which one it is.
_FIRST_SEGMENTS = {
    "unet": ("down_blocks", "up_blocks", "mid_block", "conv_in", "conv_out", "time_embedding", "add_embedding"),
    "transformer": ("transformer_blocks", "single_transformer_blocks", *_FLUX_ROOTS),
    "text_encoder": ("text_model",),
}
# The roots under which ComfyUI keeps the models of a checkpoint -> the component.
_COMFY = {
    ("diffusion_model",): "",  # unet or transformer: the path tells
    ("text_encoders", "clip_l", "transformer"): "text_encoder",
    ("text_encoders", "clip_g", "transformer"): "text_encoder_2",
    ("text_encoders", "t5xxl", "transformer"): "text_encoder_3",
}
_LDM_ROOTS = ("input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out")
_ORIGINALS = (
    "wan_original",
    "hunyuan_video_original",
    "sd3_original",
    "flux2_original",
    "lumina2_original",
    "z_image_original",
)
_BLOCK = re.compile(r"(?<=\.)\d{1,4}(?=\.)")
_NUMBER = re.compile(r"(?<=_)\d{1,4}(?=_)")  # the first one is the block's
_TEXT_ATTENTION = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def with_component(path: str) -> str:
    """A path inside a denoiser with the component that it belongs to in front; any other path as it is."""
    first = path.partition(".")[0]
    component = next((name for name in ("unet", "transformer") if first in _FIRST_SEGMENTS[name]), None)
    return f"{component}.{path}" if component else path


def without_component(names: Collection[str]) -> str:
    """The prefix that all names share and that `with_component` would put back: "unet.", "transformer." or nothing."""
    first = next(iter(names), "")
    prefix = first.partition(".")[0] + "."
    inverted = all(name.startswith(prefix) and with_component(name.removeprefix(prefix)) == name for name in names)
    return prefix if inverted else ""


class Spelling(NamedTuple):
    """A module's canonical name, and whether the tables knew it (dotted names need no table)."""

    name: str
    known: bool = True


def is_underscored(module: str) -> bool:
    """Whether a name is of the underscore kind."""
    return "." not in module and module.startswith(tuple(_UNDERSCORED))


def canonical(module: str) -> Spelling:
    """The canonical name of a module as a file spells it."""
    return _from_underscores(module) if is_underscored(module) else Spelling(_from_dots(module))


@cache
def kernels() -> Mapping[str, tuple[int, ...]]:
    """Kernel of every convolution of the Stable Diffusion UNets, by canonical name."""
    lines = (line.split() for line in table_lines("unet"))
    return {f"unet.{name}": (int(size[0]), int(size[1])) for name, *size in lines if size}


class Numbered(NamedTuple):
    """A layer that cloneofsimo/lora knew by its position."""

    ancestor: str
    name: str
    d_out: int
    d_in: int


@cache
def unet_by_index() -> tuple[Numbered, ...]:
    """The Stable Diffusion UNet's layers in the order in which they were numbered; shapes are those of version 1."""
    fields = (line.split() for line in table_lines("unet_by_index"))
    return tuple(Numbered(kind, f"unet.{name}", int(d_out), int(d_in)) for kind, name, d_out, d_in in fields)


@cache
def _underscored(component: str) -> Mapping[str, str]:
    """Underscored path -> canonical name for one component."""
    if component == "unet":
        names = {line.split()[0]: line.split()[0] for line in table_lines("unet")}
        names |= dict(line.split() for line in table_lines("unet_ldm"))
    elif component == "transformer":
        names = {line: line for line in [*table_lines("flux"), *_block_names()]}
    else:
        names = {line: line for line in [*table_lines("clip_text"), *table_lines("text_encoders")]}
    return {spelling.replace(".", "_"): f"{component}.{name}" for spelling, name in names.items()}


def _block_names() -> list[str]:
    """Modules of the transformers of diffusers and of the original repositories, `{}` for the block's number."""
    own = [line.split()[1] for line in table_lines("transformers")]
    return [*own, *(line.split()[0] for table in _ORIGINALS for line in table_lines(table))]


def block_template(path: str) -> str:
    """The path with `{}` in place of its first number, which is the block's: what the tables hold."""
    return _BLOCK.sub("{}", path, count=1)


def table_lines(table: str) -> list[str]:
    """The lines of a table in studio/formats/keys."""
    return (resources.files("studio.formats") / "keys" / f"{table}.txt").read_text(encoding="utf-8").splitlines()


def _from_underscores(module: str) -> Spelling:
    prefix = max((p for p in _UNDERSCORED if module.startswith(p)), key=len)
    component, path = _UNDERSCORED[prefix], module[len(prefix) :]
    if path.endswith("_to_out"):
        path += "_0"
    for spelled in (path, path.removeprefix("unet_"), path.removeprefix(f"{component}_")):  # some converters repeat it
        for candidate in (component, "transformer") if component == "unet" else (component,):
            found = _looked_up(candidate, spelled)
            if found:
                return Spelling(found)
    return Spelling(f"{component}.{path}", known=False)


def _looked_up(component: str, spelled: str) -> str | None:
    """The canonical name of an underscored path, literally in a table or by the number of its block."""
    table = _underscored(component)
    number = _NUMBER.search(spelled)
    if spelled in table or number is None:
        return table.get(spelled)
    found = table.get(_NUMBER.sub("{}", spelled, count=1))
    return found and found.format(number[0])


def _from_dots(module: str) -> str:
    segments = [segment for segment in module.split(".") if segment != "processor"]
    component, path = _from_comfy(segments) or _component(segments)
    if component.startswith("text_encoder"):
        if path[-1:] and path[-1] in _TEXT_ATTENTION:
            path[-1] = _TEXT_ATTENTION[path[-1]]
        if path[:1] == ["encoder"] and path[1:2] == ["layers"]:  # CLIP since transformers 5 has no text_model
            path.insert(0, "text_model")
    elif path[-1:] == ["to_out"]:
        path.append("0")
    return ".".join([component, *path] if component else path)


def _from_comfy(segments: list[str]) -> tuple[str, list[str]] | None:
    """Component and path of a name under one of ComfyUI's roots; a denoiser without other marks is a transformer."""
    root = next((root for root in _COMFY if tuple(segments[: len(root)]) == root), None)
    if root is None:
        return None
    rest = segments[len(root) :]
    if _COMFY[root]:
        return _COMFY[root], rest
    if rest[:1] and rest[0] in _LDM_ROOTS:
        found = _underscored("unet").get("_".join(rest + ["0"] * (rest[-1] == "to_out")))
        return ("unet", found.split(".")[1:]) if found else ("unet", rest)
    component, path = _component(rest)
    return component or "transformer", path


def _component(segments: list[str]) -> tuple[str, list[str]]:
    """Split off the component, written in front, written twice, or not at all."""
    component = _UNDERSCORED.get(f"{segments[0]}_", segments[0])  # OneTrainer: lora_unet.down_blocks...
    component = component if component in COMPONENTS else ""
    rest = segments[1:] if component else segments
    while component and rest[:1] == [component]:
        rest = rest[1:]
    while rest[:2] == ["base_model", "model"]:
        rest = rest[2:]
    if not component:
        component = next((name for name, firsts in _FIRST_SEGMENTS.items() if rest[:1] and rest[0] in firsts), "")
    if not component and block_template(".".join(rest)) in _wan():  # DiffSynth writes no prefix
        component = "transformer"
    return component, rest


@cache
def _wan() -> frozenset[str]:
    """Layers in Wan's blocks by their original names; no other model has these."""
    return frozenset(line.split()[0] for line in table_lines("wan_original") if line.startswith("blocks."))
