"""What the room says in words and small tables, from plain numbers."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from studio.evaluation.image_quality import psnr
from studio.session.analogy import Picture
from studio.ui.shell import markup
from studio.vision.export import strongest
from studio.vision.lorweb import effective_size
from studio.vision.pictures import to_tensor

if TYPE_CHECKING:
    from torch import Tensor

_TALLEST = 60  # rows of the heat map; deeper models are shown by groups of layers


def title(name: str) -> str:
    """A transform's name as a person writes it."""
    return name.replace("_", " ")


def decibels(found: Picture, truth: Picture) -> float:
    """PSNR of a picture against the right one."""
    pair = [to_tensor(picture.convert("RGB").resize(found.size))[None] for picture in (found, truth)]
    return float(psnr(*pair))


def judged(found: Picture, truth: Picture | None) -> str:
    """How near b' is to the right answer, where there is one."""
    if truth is None:
        return ""
    return markup.message(f"{decibels(found, truth):.1f} dB from the right answer (PSNR; above 25 is close)", "line")


def mix_line(mix: Tensor) -> str:
    """How many adapters really take part, and the strongest."""
    mean = mix.abs().mean(0)
    share = mean / mean.sum().clamp_min(1e-9)
    named = ", ".join(f"{i + 1} ({share[i]:.0%})" for i in strongest(mix, 4))
    return markup.message(
        f"About {float(effective_size(mix).mean()):.1f} of {mix.shape[-1]} adapters take part in a layer. "
        f"Most used over all layers: {named}.",
        "line",
    )


def heat(mix: Tensor, layers: list[str]) -> str:
    """Layers as rows, adapters as columns, darker for a larger share; deep models by the mean of neighbours."""
    shares = mix.abs().numpy()
    groups = np.array_split(np.arange(len(layers)), min(_TALLEST, len(layers)))
    rows = np.stack([shares[group].mean(0) for group in groups])
    most = float(rows.max()) or 1.0
    head = "".join(f"<th scope='col'>{i + 1}</th>" for i in range(rows.shape[1]))
    body = "".join(
        f"<tr><th scope='row' title='{escape(layers[group[0]])}'>{_label(group)}</th>"
        + "".join(f"<td style='--heat:{v / most:.2f}' title='{v:.3f}'></td>" for v in row)
        + "</tr>"
        for group, row in zip(groups, rows.tolist(), strict=True)
    )
    caption = "<caption>Share of each adapter (columns) in each layer (rows, from input to output)</caption>"
    return f"<div class='scroll'><table class='heat'>{caption}<tr><th></th>{head}</tr>{body}</table></div>"


def _label(group: np.ndarray[tuple[int], np.dtype[np.int64]]) -> str:
    first, last = int(group[0]) + 1, int(group[-1]) + 1
    return f"{first}" if first == last else f"{first}–{last}"
