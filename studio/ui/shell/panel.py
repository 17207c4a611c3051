"""What every panel of the page is made of: the visitor's session, and errors as messages."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

import gradio as gr

from studio.core.errors import LoomError
from studio.session.session import Session
from studio.session.store import Sessions
from studio.session.workspace import Workspace
from studio.ui.shell.warm_up import WarmUp

Updates = Mapping[Any, Any]
Given = ParamSpec("Given")
Answer = TypeVar("Answer")

# Handlers of the page are not an API: scripts use the command line or the Python face.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
# An edit answers at once and is followed by the results; of a fast drag only the last position counts.
EDIT: dict[str, Any] = {**PRIVATE, "show_progress": "hidden", "trigger_mode": "always_last", "concurrency_limit": 20}
# The number beside a slider takes any text. Gradio's own check stops the edit while the page shows the nearest end, so
# what was typed reaches the handler, which brings it in as the page does: see `on_slider`.
SLIDE: dict[str, Any] = {**EDIT, "preprocess": False}


@dataclass(eq=False)
class Shared:
    """What the panels have in common: the sessions, the visitor's token, and two states that tell listeners what to
    redo.

    `version` grows with every edit; `picture` names what the map shows, and changes with it.
    """

    sessions: Sessions
    warm: WarmUp
    token: gr.State
    version: gr.State
    picture: gr.State
    panels: list[Panel] = field(default_factory=list)

    def session(self, token: str) -> Session:
        """The visitor's session; raises `LoomError` for who has not entered."""
        return self.sessions.get(token)

    def workspace(self, token: str) -> Workspace:
        """The visitor's workspace; raises as `session` does."""
        return self.session(token).workspace

    def refresh(self, workspace: Workspace) -> dict[Any, Any]:
        """Set every control of the page by the recipe, and have results and map made anew."""
        updates: dict[Any, Any] = {self.version: workspace.version, self.picture: workspace.version}
        for panel in self.panels:
            updates.update(panel.controls(workspace))
        return updates

    def controls(self) -> list[Any]:
        """Everything that `refresh` may set."""
        found = [self.version, self.picture]
        return found + [component for panel in self.panels for component in panel.components()]


class Panel(Protocol):
    """One part of the page. `build` makes its components, `wire` its listeners; the rest is plain functions."""

    def components(self) -> list[Any]:
        """The components that `controls` sets."""

    def controls(self, workspace: Workspace) -> dict[Any, Any]:
        """Their updates, by the recipe in the workspace."""

    def wire(self) -> None:
        """Connect the listeners, once all panels are built."""


class TabPanel(Protocol):
    """What a tab of its own holds. Its work begins when the tab is first opened: listen to `tab.select`."""

    def __init__(self, shared: Shared) -> None:
        """Make the components."""

    def wire(self, tab: gr.Tab) -> None:
        """Connect the listeners."""


def shows_errors(handler: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """Let a handler raise `LoomError`: the visitor reads what happened, why, and what to do next.

    One that returns no updates changes nothing. A dropdown sends its input again when it loses the focus, so handlers
    of dropdowns do so for what is in the workspace already.
    """

    @wraps(handler)
    def guarded(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
        try:
            updates = handler(*args, **kwargs)
        except LoomError as error:
            raise as_message(error) from error
        return gr.skip() if updates == {} else updates  # Gradio takes an empty dict for one value of many

    return guarded


def shows_errors_while(handler: Callable[Given, Iterator[Answer]]) -> Callable[Given, Iterator[Answer]]:
    """The same for a handler that yields."""

    @wraps(handler)
    def guarded(*args: Given.args, **kwargs: Given.kwargs) -> Iterator[Answer]:
        try:
            yield from handler(*args, **kwargs)
        except LoomError as error:
            raise as_message(error) from error

    return guarded


def as_message(error: LoomError) -> gr.Error:
    """A typed error as the page's own message. All of it is in the text: Gradio's toasts show no title but "Error".

    They show HTML, and names in the text come from strangers' files.
    """
    return gr.Error(html.escape(str(error), quote=False), duration=12, print_exception=False)
