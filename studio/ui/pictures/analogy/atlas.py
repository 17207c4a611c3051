"""The mixes of many analogies as a map, and the mix at hand as a heat map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr
import numpy as np

from studio.session.analogy import SLIDERS
from studio.session.jobs import Job
from studio.ui.compose.map import pack, picked_ids, unit_map
from studio.ui.pictures.analogy.format import title
from studio.ui.pictures.analogy.models import MAPPED, Mapped
from studio.ui.pictures.analogy.pictures import PicturesPanel
from studio.ui.pictures.analogy.room import AnalogyRoom
from studio.ui.pictures.analogy.space import SpacePanel
from studio.ui.shell.panel import EDIT, PRIVATE, shows_errors, shows_errors_while
from studio.units import pca, umap_layout
from studio.vision.transforms import TRANSFORMS

_PATIENCE = 0.4
MOVES, BRINGS = "moves the sliders to its mix", "brings its pictures"


class AtlasPanel:
    """Many analogies as points; a click takes one's mix, or its pictures."""

    def __init__(self, room: AnalogyRoom) -> None:
        self.room = room

    def build_map(self) -> None:
        """The map and what a click does."""
        with gr.Row():
            self.layout = gr.Radio(
                ["PCA", "UMAP"], value="PCA", label="Layout", elem_id="mix-layout", min_width=120,
                info="UMAP keeps neighbours; its first picture takes longer",
            )  # fmt: skip
            self.click = gr.Radio([MOVES, BRINGS], value=MOVES, label="A click", elem_id="mix-click", min_width=200)
        self.draw = gr.Button("Map the mixes of many analogies", size="sm", elem_id="draw-map")
        self.map = unit_map(
            height=280, elem_id="mix-map", empty="Each point will be one analogy of the world, placed by its mix."
        )

    def wire(self, pictures: PicturesPanel, space: SpacePanel) -> None:
        """Connect the listeners; a click sets slots and sliders."""
        token, version = self.room.shared.token, self.room.version
        self.draw.click(self.on_map, [token, self.layout], self.map, **PRIVATE)
        self.layout.input(self.on_map, [token, self.layout], self.map, **PRIVATE)
        driven = [*pictures.slots, *space.gains, space.second, space.t, self.map, version]
        self.pictures = pictures
        self.map.pick(self.on_point, [token, self.click], driven, **EDIT)

    @shows_errors_while
    def on_map(self, token: str, layout: str) -> Iterator[Any]:
        """Lay out the mixes of many analogies."""
        self.room.session(token)
        job = Job(self.room.models.mapped)
        while not job.wait(_PATIENCE):
            done, total, _ = job.progress
            yield gr.update(note=f"Looking at analogies: {done} of {total or '?'}…")
        mapped: Mapped = job.result()
        if layout == "UMAP":
            yield gr.update(note="Laying out by UMAP…")
        places = umap_layout(_means(mapped)) if layout == "UMAP" else pca(_means(mapped))
        note = f"{len(mapped.tasks)} analogies by the mean of their mixes over layers ({layout}), coloured by family."
        yield gr.update(value=payload(mapped, places, layout), picked=[], note=note)

    @shows_errors
    def on_point(self, token: str, click: str, event: gr.EventData) -> list[Any]:
        """A point of the map: its mix on the sliders, or its own pictures in the slots."""
        mapped = self.room.models.mapped()
        ids = picked_ids(event, len(mapped.tasks))
        if not ids:
            return [gr.skip()] * (4 + SLIDERS + 4)
        name, scene = mapped.tasks[ids[0]]
        picked = gr.update(picked=[ids[0]])
        if click == BRINGS:
            *shown, version = self.pictures.show(token, (name,), scene)
            return [*shown, gr.skip(), gr.skip(), picked, version]
        session = self.room.full(token)
        gains = (1.0,) * SLIDERS
        version = self.room.change(token, other=self.room.towards(session, (name,), scene), t=1.0, gains=gains)
        return [*[gr.skip()] * 4, *gains, name, 1.0, picked, version]


def _means(mapped: Mapped) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The mean mix of each analogy over layers, (n, N)."""
    return np.asarray(mapped.mixes.mean(1), np.float32)


def payload(mapped: Mapped, places: np.ndarray[Any, Any], layout: str) -> dict[str, Any]:
    """Points for the map component, with words of their own."""
    names = [name for name, _ in mapped.tasks]
    families = sorted({TRANSFORMS[name].family for name in names})
    kinds = list(dict.fromkeys(names))
    family = np.array([families.index(TRANSFORMS[name].family) for name in names])
    kind = np.array([kinds.index(name) for name in names])
    flat = np.zeros(len(names))
    group: Mapping[str, Any] = {"names": families, "index": pack(family, "u2")}
    return {
        "version": f"mixes-{layout}", "frame": f"mixes-{layout}", "points": len(names), "total": len(names),
        "x": pack(places[:, 0], "f4"), "y": pack(places[:, 1], "f4"),
        "energy": pack(flat + 1, "f4"), "module_energy": pack(flat, "f4"), "rank": pack(flat, "u2"),
        "near_source": pack(flat + 65535, "u2"), "near_rank": pack(flat, "u2"), "near_cosine": pack(flat, "f4"),
        "source": group, "layer": group, "type": group,
        "module": {"names": [title(k) for k in kinds], "index": pack(kind, "u2")},
        "tips": [f"{title(name)}, example {scene + 1} of {MAPPED} ({TRANSFORMS[name].family})"
                 for name, scene in mapped.tasks],
    }  # fmt: skip
