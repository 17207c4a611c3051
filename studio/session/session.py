"""One visitor's session: workspace, analogy and runs, which live and end together."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from studio.core.errors import Cancelled
from studio.session.analogy import AnalogySession
from studio.session.runs import Runs
from studio.session.workspace import Workspace


class Session:
    """All that one visitor has. Every public method is safe to call from several threads.

    `_lock` guards the analogy; workspace and runs have locks of their own.
    """

    def __init__(self, token: str, workspace: Workspace) -> None:
        self.token, self.workspace, self.runs = token, workspace, Runs()
        self._lock = threading.Lock()
        self._analogy = AnalogySession()
        self._closed = False

    @property
    def analogy(self) -> AnalogySession:
        """The pictures and sliders of the visitor's analogy."""
        return self._analogy

    def change_analogy(self, **fields: Any) -> AnalogySession:
        """Replace some fields; every change is a new version."""
        with self._lock:
            if self._closed:
                raise Cancelled("This session has ended")
            self._analogy = replace(self._analogy, **fields, version=self._analogy.version + 1)
            return self._analogy

    def close(self) -> None:
        """End it: runs are cancelled, tensors let go, files removed. What asks for them later gets `Cancelled`."""
        with self._lock:
            self._closed = True
            self._analogy = AnalogySession(version=self._analogy.version + 1)  # what is being drawn is no longer wanted
        self.runs.close()
        self.workspace.close()
