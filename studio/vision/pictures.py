"""Pictures in and out: read from files that may be hostile, flattened onto white, to tensors and back."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from studio.core.errors import MissingFile, Refused
from studio.core.files import write_atomic
from studio.core.late import torch

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # what `write_picture` writes
_SOFTWARE, _OURS = 0x0131, "LoRA Loom"  # the EXIF tag of the program that made a picture
_ADVICE = "give a PNG, JPEG or WebP picture"


def read_picture(path: Path) -> Image.Image:
    """The first frame of an image file as RGB, upright by its EXIF, transparency on white.

    Raises `MissingFile` where there is none and `Refused` for what is no picture, is cut short, or is too large.
    """
    if not path.is_file():
        raise MissingFile(f"There is no picture at {path}", next="check the path")
    if path.stat().st_size > MAX_BYTES:
        raise Refused(f"{path.name} has {path.stat().st_size} bytes", f"the limit is {MAX_BYTES}", "make it smaller")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is the stricter one
            with Image.open(path, formats=FORMATS) as opened:
                _check_size(opened, path.name)
                return on_white(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError:
        raise Refused(f"{path.name} is not a picture that is known here", next=_ADVICE) from None
    except Image.DecompressionBombError as error:
        raise Refused(f"{path.name} unpacks to too many pixels", str(error), "make it smaller") from error
    except (OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, OverflowError, EOFError) as error:
        raise Refused(f"{path.name} cannot be read to its end", str(error), _ADVICE) from error


def write_picture(picture: Image.Image, path: Path) -> Path:
    """Write a PNG, JPEG or WebP file, by its suffix, whole or not at all, marked as drawn here.

    Raises `Refused` for another suffix.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise Refused(f"{path.name} does not say what to write", next=f"end it in {', '.join(SUFFIXES)}")
    how = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    mark, buffer = Image.Exif(), io.BytesIO()
    mark[_SOFTWARE] = _OURS
    picture.save(buffer, kind, exif=mark, **how)
    write_atomic(path, buffer.getvalue())
    return path


def is_drawn(path: Path) -> bool:
    """Whether `write_picture` wrote this file."""
    try:
        with Image.open(path, formats=FORMATS) as opened:
            return opened.getexif().get(_SOFTWARE) == _OURS
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def on_white(picture: Image.Image) -> Image.Image:
    """The picture as RGB, what is transparent white."""
    if picture.mode in {"RGB", "L"}:
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture.convert("RGBA"))
    return white.convert("RGB")


def to_tensor(picture: Image.Image) -> Tensor:
    """Values (3, h, w) in [0, 1]."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255


def to_picture(values: Tensor) -> Image.Image:
    """A picture of values (3, h, w) in [0, 1]."""
    levels = (values.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def _check_size(opened: Image.Image, name: str) -> None:
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise Refused(f"{name} has {width} x {height} pixels", f"the limit is {MAX_PIXELS}", "make it smaller")
