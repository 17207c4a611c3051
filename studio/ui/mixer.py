"""The mixer: method, weights, knobs, the report.

Controls come from the registry; none is written by hand for a method.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import gradio as gr

from studio.desk import MAX_SOURCES, Desk
from studio.errors import Cancelled, LoomError
from studio.merging import Knob, Method, Value, method_by_id, methods
from studio.ui import views
from studio.ui.panel import EDIT, PRIVATE, Job, Shared, told, told_while
from studio.units.pool import layer_of, module_type_of, natural

_NARROW, _WIDE = 2.0, 15.0
_PATIENCE = 0.3  # seconds until a merge shows its progress


class MixerPanel:
    """Edits method, weights, knobs, and shows what the merge did."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        with gr.Column(scale=5, min_width=320, elem_id="mixer"), gr.Tabs():
            with gr.Tab("Mix", elem_classes="pane"):
                self._build_mix()
            with gr.Tab("Report", elem_classes="pane"):
                self.report = gr.HTML(views.message("The report of the merge appears here."), elem_id="report")
            with gr.Tab("Modules", elem_classes="pane"):
                self.modules = gr.HTML(views.message("One row for each module appears here."), elem_id="modules")
            with gr.Tab("By module", elem_classes="pane"):
                self._build_by_module()

    def _build_mix(self) -> None:
        choices = [(found.title, found.id) for found in methods().values()]
        self.method = gr.Dropdown(choices, value="cat", label="Method", elem_id="method")
        self.summary = gr.Markdown(elem_id="summary")
        with gr.Column(elem_id="weights"):
            self.weights = [_weight_slider(index) for index in range(MAX_SOURCES)]
        self.knobs: dict[tuple[str, str], gr.components.Component] = {}
        self.groups: dict[str, gr.Group] = {}
        for found in methods().values():
            if found.knobs:
                with gr.Group(visible=False) as group:
                    self._build_knobs(found)
                self.groups[found.id] = group
        self.status = gr.HTML(elem_id="status")
        with gr.Accordion("More", open=False):
            self.scale = gr.Slider(
                -_NARROW, _NARROW, 1, step=0.01, label="Scale (λ)", info="Multiplies the whole result.", elem_id="scale"
            )
            self.wide = gr.Checkbox(label="Wide range: weights up to ±15", elem_id="wide")
            self.seed = gr.Number(0, label="Seed", info="For methods that draw at random.", precision=0, minimum=0)
            self.extras = gr.Dropdown(
                label="Heads, biases and other full tensors",
                info="Carried whole from one source, or dropped.",
                value="",
                choices=[("drop them", "")],
            )
            self.other_bases = gr.Checkbox(
                label="Allow different base models",
                info="Deltas of different bases do not add up; shapes alone are checked.",
            )

    def _build_knobs(self, found: Method) -> None:
        plain = [knob for knob in found.knobs.values() if not knob.advanced]
        folded = [knob for knob in found.knobs.values() if knob.advanced]
        for knob in plain:
            self.knobs[found.id, knob.name] = _control(found, knob)
        if folded:
            with gr.Accordion("Fine settings", open=False):
                for knob in folded:
                    self.knobs[found.id, knob.name] = _control(found, knob)

    def _build_by_module(self) -> None:
        gr.Markdown("Weights by kind of module or by layer; an empty change means the slider's weight.")
        self.grouping = gr.Radio(
            [("Module type", "type"), ("Layer", "layer")],
            value="type",
            label="Group modules by",
            show_label=False,
            elem_id="grouping",
        )
        self.table = gr.Dataframe(interactive=True, elem_id="by-module", max_height=320, show_label=False)
        self.reset = gr.Button("Clear these", size="sm")

    # Setting the controls --------------------------------------------------------------------------------------------

    def components(self) -> list[Any]:
        """All controls."""
        own = [self.method, self.summary, self.scale, self.seed, self.extras, self.other_bases, self.table]
        return [*own, *self.weights, *self.knobs.values(), *self.groups.values()]

    def controls(self, desk: Desk) -> dict[Any, Any]:
        """Every control as the recipe has it."""
        recipe, names = desk.recipe, [adapter.name for adapter in desk.adapters]
        chosen = recipe.chosen
        updates: dict[Any, Any] = {
            self.method: recipe.method,
            self.summary: chosen.summary,
            self.scale: recipe.scale,
            self.seed: recipe.seed,
            self.extras: gr.update(choices=[("drop them", ""), *((n, n) for n in names)], value=recipe.extras or ""),
            self.other_bases: recipe.other_bases,
            self.table: _table(desk, "type"),
        }
        for index, slider in enumerate(self.weights):
            updates[slider] = (
                _weight_update(names[index], recipe.weights[index]) if index < len(names) else gr.update(visible=False)
            )
        updates.update({group: gr.update(visible=id == chosen.id) for id, group in self.groups.items()})
        values = chosen.check(recipe.knobs)
        most = sum(adapter.rank for adapter in desk.adapters)
        for (id, name), control in self.knobs.items():
            knob = method_by_id(id).knobs[name]
            updates[control] = _knob_update(knob, values[name] if id == chosen.id else knob.default, most)
        return updates

    # Listening -------------------------------------------------------------------------------------------------------

    def wire(self) -> None:
        """Connect the listeners."""
        token, version = self.shared.token, self.shared.version
        self.method.input(self.on_method, [token, self.method], self.shared.controls(), **EDIT)
        for index, slider in enumerate(self.weights):
            slider.input(partial(self.on_weight, index), [token, slider], version, **EDIT)
        for (id, name), control in self.knobs.items():
            control.input(partial(self.on_knob, id, name), [token, control], version, **EDIT)
        for name, control in {"scale": self.scale, "seed": self.seed, "other_bases": self.other_bases}.items():
            control.input(partial(self.on_field, name), [token, control], version, **EDIT)
        self.extras.input(self.on_extras, [token, self.extras], version, **EDIT)
        self.wide.input(self.on_wide, [self.wide], [*self.weights, self.scale], **EDIT)
        self.grouping.input(self.on_grouping, [token, self.grouping], self.table, **EDIT)
        self.table.input(self.on_table, [token, self.grouping, self.table], version, **EDIT)
        self.reset.click(self.on_reset, [token, self.grouping], [version, self.table], **EDIT)
        shown = [self.report, self.modules, self.status]
        version.change(
            self.on_version,
            [token],
            shown,
            trigger_mode="always_last",
            show_progress="hidden",
            concurrency_limit=8,
            **PRIVATE,
        )

    @told
    def on_method(self, token: str, id: str) -> dict[Any, Any]:
        """Another method: its own knobs, and its own default weights where none was set."""
        desk = self.shared.desk(token)
        if id == desk.recipe.method:
            return {}
        desk.edit(f"method {id}", method=id, knobs={})
        return self.shared.refresh(desk)

    @told
    def on_weight(self, index: int, token: str, value: float) -> int:
        """A weight slider moved."""
        desk = self.shared.desk(token)
        if index >= len(desk.recipe.sources):
            return desk.version
        desk.edit_source(index, f"weight of {desk.entries[index].adapter.name}", weight=value)
        return desk.version

    @told
    def on_knob(self, id: str, name: str, token: str, value: Any) -> int:
        """A knob of the method moved; one of a method no longer chosen says nothing."""
        desk = self.shared.desk(token)
        if id == desk.recipe.method:
            desk.edit(f"{id} {name}", knobs={**desk.recipe.knobs, name: value})
        return desk.version

    @told
    def on_field(self, name: str, token: str, value: Any) -> int:
        """Scale, seed, or leave for other bases."""
        desk = self.shared.desk(token)
        if value is None:
            raise LoomError(f"{name} is empty", next="give a number")
        desk.edit(name.replace("_", " "), **{name: value})
        return desk.version

    @told
    def on_extras(self, token: str, name: str | None) -> int:
        """Whose heads and biases are carried."""
        desk = self.shared.desk(token)
        desk.edit("extras", extras=name or None)
        return desk.version

    def on_wide(self, is_wide: bool) -> list[Any]:
        """Widen or narrow the sliders."""
        limit = _WIDE if is_wide else _NARROW
        return [gr.update(minimum=-limit, maximum=limit)] * (MAX_SOURCES + 1)

    @told
    def on_grouping(self, token: str, grouping: str) -> Any:
        """Show the table by type or by layer."""
        return _table(self.shared.desk(token), grouping)

    @told
    def on_table(self, token: str, grouping: str, table: Any) -> int:
        """Cells of the table changed: weights of their own for the modules of that row."""
        desk = self.shared.desk(token)
        groups = _groups(desk, grouping)
        for index, source in enumerate(desk.recipe.sources):
            column = [_number(cell) for cell in list(table.iloc[:, index + 1])] if index + 1 < table.shape[1] else []
            own = _own_weights(column, groups, source.modules, desk.recipe.weights[index], desk.module_names())
            if own != dict(source.modules):
                desk.edit_source(index, "weights by module", modules=own)
        return desk.version

    @told
    def on_reset(self, token: str, grouping: str) -> tuple[int, Any]:
        """Clear all weights by module."""
        desk = self.shared.desk(token)
        desk.edit(
            "clear weights by module", sources=[{**s, "modules": {}} for s in desk.recipe.model_dump()["sources"]]
        )
        return desk.version, _table(desk, grouping)

    @told_while
    def on_version(self, token: str) -> Iterator[dict[Any, Any]]:
        """The recipe changed: merge, telling the progress if it takes long."""
        desk = self.shared.desk(token)
        if not desk.recipe.sources:
            yield {self.report: views.message("Add an adapter to merge."), self.modules: "", self.status: ""}
            return
        job = Job(lambda on_step: desk.compose(on_step=on_step))
        while not job.wait(_PATIENCE):
            done, total, _ = job.progress
            far = f"{done} of {total} modules" if total else "reading the adapters"
            yield {self.status: views.message(f"Merging by {desk.recipe.method}: {far}…", "busy")}
        try:
            found = job.result().report
        except Cancelled:
            return
        except LoomError as error:
            yield {self.report: views.message(str(error), "refused"), self.modules: "", self.status: _refused(error)}
            return
        yield {self.report: views.report(found), self.modules: views.modules(found.modules), self.status: _line(found)}


def _weight_slider(index: int) -> gr.Slider:
    return gr.Slider(
        -_NARROW, _NARROW, 0, step=0.01, label="", visible=False, interactive=True, elem_id=f"weight-{index}"
    )


def _control(method: Method, knob: Knob) -> gr.components.Component:
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


def _knob_update(knob: Knob, value: Value, most: int) -> Any:
    """The knob's value; a rank or number of clusters goes as far as the units on the desk."""
    if knob.kind == "int" and knob.range is not None and knob.range.auto is not None:
        limit = min(knob.range.high, max(most, int(value), 8))
        return gr.update(value=value, maximum=limit)
    return gr.update(value=value)


def _weight_update(name: str, value: float) -> Any:
    limit = _WIDE if abs(value) > _NARROW else _NARROW
    return gr.update(visible=True, label=name, value=round(value, 4), minimum=-limit, maximum=limit)


def _line(found: Any) -> str:
    """The report in one line, under the sliders."""
    note = f" · {len(found.warnings)} notes in the report" if found.warnings else ""
    to_sum = "" if found.cosine_to_sum is None else f" · cosine to sum {found.cosine_to_sum:.3f}"
    return views.message(f"rank {found.rank} · kept energy {found.kept_energy:.1%}{to_sum}{note}", "line")


def _refused(error: LoomError) -> str:
    return views.message(str(error), "refused")


def _groups(desk: Desk, grouping: str) -> dict[str, list[str]]:
    """The modules on the desk by type or by layer."""
    named = module_type_of if grouping == "type" else layer_of
    groups: dict[str, list[str]] = {}
    for name in desk.module_names():
        groups.setdefault(named(name), []).append(name)
    return {name: groups[name] for name in sorted(groups, key=natural)}


def _table(desk: Desk, grouping: str) -> Any:
    """Rows of (group, weight of each source); a mixed group shows no number."""
    names = [adapter.name for adapter in desk.adapters]
    rows = []
    for group, modules in _groups(desk, grouping).items():
        row: list[Any] = [group]
        for source, weight in zip(desk.recipe.sources, desk.recipe.weights, strict=True):
            found = {source.weight_for(module, weight) for module in modules}
            row.append(found.pop() if len(found) == 1 else "mixed")
        rows.append(row)
    return gr.update(value={"headers": ["module" if grouping == "type" else "layer", *names], "data": rows})


def _number(cell: Any) -> float | None:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def _own_weights(
    column: Sequence[float | None],
    groups: Mapping[str, Sequence[str]],
    before: Mapping[str, float],
    weight: float,
    names: Sequence[str],
) -> dict[str, float]:
    """The per-module weights that give each group the number in its cell; cells without one keep what they had."""
    own: dict[str, float] = {}
    for (group, members), cell in zip(groups.items(), column, strict=False):
        if cell is None:
            own |= {pattern: w for pattern, w in before.items() if any(fnmatchcase(name, pattern) for name in members)}
        elif cell != weight:
            pattern = f"*.{group}"
            whole = {name for name in names if fnmatchcase(name, pattern)} == set(members)
            own |= {pattern: cell} if whole else dict.fromkeys(members, cell)
    return own
