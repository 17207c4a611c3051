"""Controls made from the registry of merge methods; none is written by hand for a method."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.merging import Knob, Method, Value

NARROW, WIDE = 2.0, 15.0  # how far a weight slider goes


def weight_slider(index: int) -> gr.Slider:
    """A slider of the pool, hidden until an adapter takes it."""
    return gr.Slider(
        -NARROW, NARROW, 0, step=0.01, label="", visible=False, interactive=True, elem_id=f"weight-{index}"
    )


def weight_range(limit: float, *, signed: bool) -> dict[str, float]:
    """How far a slider goes: to both sides, or from 0 where the method takes no negative weights."""
    return {"minimum": -limit if signed else 0.0, "maximum": limit}


def weight_update(name: str, value: float, *, signed: bool, is_by_module: bool = False) -> Any:
    """The slider as an adapter's, wide enough for its weight; it rests where every module has a weight of its own."""
    bounds = weight_range(WIDE if abs(value) > NARROW else NARROW, signed=signed or value < 0)
    label = f"{name}: mean, set by module" if is_by_module else name
    return gr.update(visible=True, label=label, value=round(value, 4), interactive=not is_by_module, **bounds)


def knob_control(method: Method, knob: Knob) -> gr.components.Component:
    """The control that fits a knob's kind and bounds."""
    about: dict[str, Any] = {
        "label": knob.title,
        "info": knob.help,
        "elem_id": f"{method.id}-{knob.name}",
        "interactive": True,
    }
    if knob.kind == "bool":
        return gr.Checkbox(bool(knob.default), **about)
    if knob.choices:
        return gr.Radio(list(knob.choices), value=knob.default, **about)
    if knob.range is None:
        return gr.Number(knob.default, **about)
    low = knob.range.low if knob.range.auto is None else min(knob.range.auto, knob.range.low)
    return gr.Slider(low, knob.range.high, knob.default, step=knob.range.step, **about)


def knob_update(knob: Knob, value: Value, most: int) -> Any:
    """The knob's value; a rank or number of clusters goes as far as the units in the workspace."""
    if knob.kind == "int" and knob.range is not None and knob.range.auto is not None:
        limit = min(knob.range.high, max(most, int(value), 8))
        return gr.update(value=value, maximum=limit)
    return gr.update(value=value)
