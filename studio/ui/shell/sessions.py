"""The workspaces of all visitors, told apart by a secret that only the visitor's browser holds; and what they share."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from studio.core.errors import LoomError
from studio.session.workspace import Workspace
from studio.text.store import BaseStore

_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """How this studio runs. A local one may open paths of its machine; one on a Space or a shared address may not."""

    root: Path
    is_local: bool = True
    capacity: int = 200
    lifetime: float = 12 * 3600.0

    @classmethod
    def from_environment(cls, host: str = "127.0.0.1") -> Settings:
        """Local on a loopback address, unless a Space or LOOM_LOCAL says otherwise."""
        loopback = host in {"127.0.0.1", "localhost", "::1"} and "SPACE_ID" not in os.environ
        status = os.environ.get("LOOM_LOCAL", "").lower()
        is_local = status in {"1", "true", "yes"} if status else loopback
        root = Path(os.environ.get("LOOM_WORKSPACE") or Path(tempfile.gettempdir()) / f"lora-loom-{os.getuid()}")
        return cls(root, is_local)


@dataclass(eq=False)
class Sessions:
    """Hands each visitor their own workspace; forgets the ones that nobody used for long, files included."""

    settings: Settings
    bases: BaseStore = field(default_factory=BaseStore)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._workspaces: OrderedDict[str, tuple[Workspace, float]] = OrderedDict()
        self.settings.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def enter(self, token: str | None) -> tuple[str, Workspace, bool]:
        """The visitor's token, their workspace, whether it is new. A token that is not one of ours gets a fresh one."""
        token = token if isinstance(token, str) and _TOKEN.fullmatch(token) else secrets.token_urlsafe(24)
        with self._lock:
            self._forget()
            held = self._workspaces.get(token)
            workspace = held[0] if held else Workspace(self._workspace(token), self.settings.is_local)
            self._workspaces[token] = (workspace, time.monotonic())
            self._workspaces.move_to_end(token)
        return token, workspace, held is None

    def workspace(self, token: str | None) -> Workspace:
        """The workspace of a visitor who has entered; `LoomError` for anybody else."""
        with self._lock:
            held = self._workspaces.get(token or "")
            if held is None:
                raise LoomError("This page has been away too long", "its desk was cleared", "reload the page")
            self._workspaces[token or ""] = (held[0], time.monotonic())
            self._workspaces.move_to_end(token or "")
            return held[0]

    def _workspace(self, token: str) -> Path:
        folder = self.settings.root / token
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _forget(self) -> None:
        late = time.monotonic() - self.settings.lifetime
        while self._workspaces:
            token, (workspace, used) = next(iter(self._workspaces.items()))
            if used >= late and len(self._workspaces) < self.settings.capacity:
                break
            del self._workspaces[token]
            shutil.rmtree(workspace.folder, ignore_errors=True)


@dataclass(eq=False)
class WarmUp:
    """Loads the heavy packages in the background and says what is still to come, so that the page is usable at once."""

    steps: tuple[tuple[str, Callable[[], object]], ...]
    _left: list[str] = field(default_factory=list)
    _failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._left = [name for name, _ in self.steps]
        self.done = threading.Event()

    def start(self) -> None:
        """Begin, on a daemon thread."""
        threading.Thread(target=self.run, name="warm-up", daemon=True).start()

    def run(self) -> None:
        """All steps in order; one that fails is named and the others still run."""
        for name, step in self.steps:
            try:
                step()
            except Exception:
                _LOG.exception("warming up %s failed", name)
                self._failed.append(name)
            self._left.remove(name)
        self.done.set()

    def has(self, name: str) -> bool:
        """Whether a step is behind us."""
        return name not in self._left

    def status(self) -> str:
        """What is still warming up, in a few words; empty when all is there."""
        parts = [f"Warming up: {', '.join(self._left)}…"] if self._left else []
        return " ".join(parts + [f"{name} did not load." for name in self._failed])
