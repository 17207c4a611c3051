"""The mixer: method, weights, knobs, and what the merge did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gradio as gr

from studio.composing.report import Report
from studio.core.errors import Cancelled, LoomError
from studio.merging import Method, method_by_id, methods
from studio.session.jobs import Job
from studio.session.workspace import MAX_SOURCES, Workspace
from studio.ui.compose.knobs import (
    NARROW,
    WIDE,
    knob_control,
    knob_update,
    weight_range,
    weight_slider,
    weight_update,
)
from studio.ui.shell import markup
from studio.ui.shell.fields import clamped
from studio.ui.shell.panel import EDIT, PRIVATE, SLIDE, Shared, shows_errors, shows_errors_while

_PATIENCE = 0.3  # seconds until a merge shows its progress
_HIDDEN = gr.update(visible=False)


class MixerPanel:
    """Edits method, weights, knobs, and shows what the merge did."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        with gr.Tab("Mix", elem_classes="pane"):
            self._build_mix()
        with gr.Tab("Report", elem_classes="pane"):
            self.report = gr.HTML(markup.message("The report of the merge appears here."), elem_id="report")
            self.modules = gr.HTML(elem_id="modules")

    def _build_mix(self) -> None:
        choices = [(found.title, found.id) for found in methods().values()]
        with gr.Row(elem_classes="beside"):
            self.method = gr.Dropdown(choices, value="cat", label="Method", elem_id="method")
        self.summary = gr.Markdown(elem_id="summary")
        with gr.Column(elem_id="weights"):
            self.weights = [weight_slider(index) for index in range(MAX_SOURCES)]
        self.knobs: dict[tuple[str, str], gr.components.Component] = {}
        self.groups: dict[str, gr.Group] = {}
        for found in methods().values():
            if found.knobs:
                with gr.Group(visible=False) as group:
                    self._build_knobs(found)
                self.groups[found.id] = group
        with gr.Row(elem_id="status-bar"):
            self.status = gr.HTML(elem_id="status")
            self.stop = gr.Button("Stop", size="sm", scale=0, min_width=56, visible=False, elem_id="stop-merge")
        with gr.Accordion("More", open=False):
            self.scale = gr.Slider(
                -NARROW, NARROW, 1, step=0.01, label="Scale (λ)", info="Multiplies the whole result.", elem_id="scale"
            )
            self.wide = gr.Checkbox(label="Wide range: weights up to ±15", elem_id="wide")
            self.seed = gr.Number(0, label="Seed", info="For methods that draw at random.", precision=0)
            self.extras = gr.Dropdown(
                label="Heads, biases and other full tensors",
                info="Carried whole from one source, or dropped.",
                value="",
                choices=[("drop them", "")],
                visible=False,
            )
            self.other_bases = gr.Checkbox(
                label="Allow other bases",
                info="Deltas of different bases do not add up; shapes alone are checked.",
            )

    def _build_knobs(self, found: Method) -> None:
        plain = [knob for knob in found.knobs.values() if not knob.advanced]
        folded = [knob for knob in found.knobs.values() if knob.advanced]
        for knob in plain:
            self.knobs[found.id, knob.name] = knob_control(found, knob)
        if folded:
            with gr.Accordion("Fine settings", open=False):
                for knob in folded:
                    self.knobs[found.id, knob.name] = knob_control(found, knob)

    # Setting the controls --------------------------------------------------------------------------------------------

    def components(self) -> list[Any]:
        """All controls."""
        own = [self.method, self.summary, self.scale, self.seed, self.extras, self.other_bases]
        return [*own, *self.weights, *self.knobs.values(), *self.groups.values()]

    def controls(self, workspace: Workspace) -> dict[Any, Any]:
        """Every control as the recipe has it."""
        recipe, names = workspace.recipe, [adapter.name for adapter in workspace.adapters]
        chosen = recipe.chosen
        updates: dict[Any, Any] = {
            self.method: recipe.method,
            self.summary: chosen.summary,
            self.scale: recipe.scale,
            self.seed: recipe.seed,
            self.extras: _extras_update(workspace),
            self.other_bases: recipe.other_bases,
        }
        for index, slider in enumerate(self.weights):
            updates[slider] = _weight(workspace, index) if index < len(names) else gr.update(visible=False)
        updates.update({group: gr.update(visible=id == chosen.id) for id, group in self.groups.items()})
        values = chosen.check(recipe.knobs)
        most = sum(adapter.rank for adapter in workspace.adapters)
        for (id, name), control in self.knobs.items():
            knob = method_by_id(id).knobs[name]
            updates[control] = knob_update(knob, values[name] if id == chosen.id else knob.default, most)
        return updates

    # Listening -------------------------------------------------------------------------------------------------------

    def wire(self) -> None:
        """Connect the listeners."""
        token, version = self.shared.token, self.shared.version
        self.method.input(self.on_method, [token, self.method], [*self.shared.controls(), self.status], **EDIT)
        for index, slider in enumerate(self.weights):
            edit = partial(self.on_slid, slider, partial(self.on_weight, index))
            slider.input(edit, [token, slider, self.wide], [version, slider], **SLIDE)
        for (id, name), control in self.knobs.items():
            control.input(partial(self.on_knob, id, name), [token, control], version, **EDIT)
        scale = partial(self.on_slid, self.scale, partial(self.on_field, "scale"))
        self.scale.input(scale, [token, self.scale, self.wide], [version, self.scale], **SLIDE)
        for name, control in {"seed": self.seed, "other_bases": self.other_bases}.items():
            control.input(partial(self.on_field, name), [token, control], version, **EDIT)
        self.extras.input(self.on_extras, [token, self.extras], version, **EDIT)
        self.wide.input(self.on_wide, [token, self.wide], [*self.weights, self.scale], **EDIT)
        self.stop.click(self.on_stop, [token], [self.status, self.stop], **EDIT)
        shown = [self.report, self.modules, self.status, self.stop]
        version.change(
            self.on_version,
            [token],
            shown,
            trigger_mode="always_last",
            show_progress="hidden",
            concurrency_limit=8,
            **PRIVATE,
        )

    @shows_errors
    def on_method(self, token: str, id: str) -> dict[Any, Any]:
        """Another method: its own knobs, and its own default weights where none was set."""
        workspace = self.shared.workspace(token)
        if id == workspace.recipe.method:
            return {}
        workspace.edit(f"method {id}", method=id, knobs={})
        # the former method's figures must not stand under the name of this one
        return {**self.shared.refresh(workspace), self.status: markup.message(f"Merging by {id}…", "busy")}

    def on_slid(
        self, slider: gr.Slider, edit: Callable[[str, float], int], token: str, value: Any, is_wide: bool
    ) -> dict[Any, Any]:
        """A slider was dragged, or a number typed beside it: it widens for a far one, and shows what the recipe has."""
        bounds = weight_range(WIDE, signed=slider is self.scale or self._signed(token))
        wanted = clamped(value, bounds["minimum"], WIDE)
        updates: dict[Any, Any] = {self.shared.version: edit(token, wanted)}
        if abs(wanted) > (WIDE if is_wide else NARROW):
            updates[slider] = gr.update(value=wanted, **bounds)
        elif wanted != value:
            updates[slider] = gr.update(value=wanted)
        return updates

    @shows_errors
    def on_weight(self, index: int, token: str, value: float) -> int:
        """A weight slider moved."""
        workspace = self.shared.workspace(token)
        if index >= len(workspace.recipe.sources):
            return workspace.version
        workspace.edit_source(index, f"weight of {workspace.entries[index].adapter.name}", weight=value)
        return workspace.version

    @shows_errors
    def on_knob(self, id: str, name: str, token: str, value: Any) -> int:
        """A knob of the method moved; one of a method no longer chosen says nothing."""
        workspace = self.shared.workspace(token)
        if id == workspace.recipe.method:
            workspace.edit(f"{id} {name}", knobs={**workspace.recipe.knobs, name: value})
        return workspace.version

    @shows_errors
    def on_field(self, name: str, token: str, value: Any) -> int:
        """Scale, seed, or leave for other bases."""
        workspace = self.shared.workspace(token)
        if value is None:
            raise LoomError(f"The {name} is empty", next="give a number")
        workspace.edit(name.replace("_", " "), **{name: value})
        return workspace.version

    @shows_errors
    def on_extras(self, token: str, name: str | None) -> int:
        """Whose heads and biases are carried."""
        workspace = self.shared.workspace(token)
        workspace.edit("extras", extras=name or None)
        return workspace.version

    @shows_errors
    def on_wide(self, token: str, is_wide: bool) -> list[Any]:
        """Widen or narrow the sliders: those of the weights, and λ's."""
        limit = WIDE if is_wide else NARROW
        weight, scale = (weight_range(limit, signed=signed) for signed in (self._signed(token), True))
        return [*(gr.update(**weight) for _ in self.weights), gr.update(**scale)]

    def _signed(self, token: str) -> bool:
        return self.shared.workspace(token).recipe.chosen.signed

    @shows_errors
    def on_stop(self, token: str) -> dict[Any, Any]:
        """Stop a merge under way."""
        self.shared.workspace(token).stop()
        return {self.status: markup.message("Stopped. Any change starts the merge again."), self.stop: _HIDDEN}

    @shows_errors_while
    def on_version(self, token: str) -> Iterator[dict[Any, Any]]:
        """The recipe changed: merge, telling the progress if it takes long."""
        workspace = self.shared.workspace(token)
        if not workspace.recipe.sources:
            yield self._said(markup.message("Add an adapter to merge."), "", "")
            return
        job = Job(lambda _: workspace.compose())
        while not job.wait(_PATIENCE):
            done, total = workspace.progress
            far = f"{done} of {total} modules" if total else "reading the adapters"
            busy = markup.message(f"Merging by {workspace.recipe.method}: {far}…", "busy")
            yield {self.status: busy, self.stop: gr.update(visible=True)}
        try:
            found = job.result().report
        except Cancelled:
            return
        except LoomError as error:
            refused = markup.message(str(error), "refused")
            yield self._said(refused, "", refused)
            return
        yield self._said(markup.report(found), markup.modules(found.modules), _line(found, _edited(workspace)))

    def _said(self, report: str, modules: str, status: str) -> dict[Any, Any]:
        return {self.report: report, self.modules: modules, self.status: status, self.stop: _HIDDEN}


def _extras_update(workspace: Workspace) -> Any:
    """Which source's heads and biases to carry; not there where no source has any."""
    carriers = [adapter.name for adapter in workspace.adapters if adapter.extras]
    choices = [("drop them", ""), *((f"carry those of {name}", name) for name in carriers)]
    value = workspace.recipe.extras if workspace.recipe.extras in carriers else ""
    return gr.update(choices=choices, value=value, visible=bool(carriers))


def _weight(workspace: Workspace, index: int) -> Any:
    """A source's slider, as the recipe has it."""
    adapter, source = workspace.adapters[index], workspace.recipe.sources[index]
    is_by_module = bool(source.modules) and source.modules.keys() >= adapter.modules.keys()
    signed = workspace.recipe.chosen.signed
    return weight_update(adapter.name, workspace.recipe.weights[index], signed=signed, is_by_module=is_by_module)


def _edited(workspace: Workspace) -> int:
    """How many units are muted or scaled."""
    return sum(len(module) for source in workspace.recipe.sources for module in source.units.scale.values())


def _line(found: Report, edited: int) -> str:
    """The report in one line, under the sliders; its figures are of what edits of units have left."""
    count = len(found.warnings)
    note = f" · {count} note{'s' * (count > 1)} in the report" if count else ""
    to_sum = "" if found.cosine_to_sum is None else f" · cosine to sum {found.cosine_to_sum:.3f}"
    after = f" · after {edited:,} edit{'s' * (edited > 1)} of units" if edited else ""
    return markup.message(f"rank {found.rank} · kept energy {found.kept_energy:.1%}{to_sum}{after}{note}", "line")
