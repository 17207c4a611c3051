"""The sessions of all visitors, told apart by a secret that only the visitor's browser holds; and what they share."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from studio.core.errors import LoomError
from studio.session.jobs import Places
from studio.session.session import Session
from studio.session.workspace import Workspace
from studio.text.store import BaseStore

_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}")
_RUNS_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """How this studio runs. A local one may open paths of its machine; one on a Space or a shared address may not.

    At most `capacity` sessions are held. One ends `lifetime` seconds after it was last used, and `grace` seconds after
    its last page was left: a page that is loaded again is left, too. `hosts` are names that it is
    called by, besides those of this machine.
    """

    root: Path
    is_local: bool = True
    capacity: int = 200
    lifetime: float = 12 * 3600.0
    grace: float = 15 * 60.0
    hosts: frozenset[str] = frozenset()

    @classmethod
    def from_environment(cls, host: str = "127.0.0.1") -> Settings:
        """Local on a loopback address, unless a Space or LOOM_LOCAL says otherwise."""
        loopback = host in {"127.0.0.1", "localhost", "::1"} and "SPACE_ID" not in os.environ
        status = os.environ.get("LOOM_LOCAL", "").lower()
        is_local = status in {"1", "true", "yes"} if status else loopback
        root = os.environ.get("LOOM_WORKSPACE")
        folder = Path(root) if root else Path(tempfile.gettempdir()) / f"lora-loom{_owner()}"
        named = f"{os.environ.get('LOOM_ALLOWED_HOSTS', '')},{os.environ.get('SPACE_HOST', '')}"
        hosts = frozenset(name.strip().strip("[]").lower() for name in named.split(",")) - {""}
        return cls(folder, is_local, hosts=hosts)


def _owner() -> str:
    """What tells this user's folder from another's in a shared temporary folder; Windows has one for each user."""
    return f"-{os.getuid()}" if hasattr(os, "getuid") else ""


@dataclass(slots=True, eq=False)
class _Held:
    """A session, when it was last used, and how many pages show it."""

    session: Session
    used: float = 0.0
    pages: int = 0


@dataclass(eq=False)
class Sessions:
    """The one store of what visitors have. Hands each their own session; ends those that nobody used for long.

    `_changed` guards the dictionary and is never held while a session is closed. Whoever enters with the token of a
    session that is being closed waits until its files are gone.
    """

    settings: Settings
    bases: BaseStore = field(default_factory=BaseStore)
    places: Places = field(default_factory=lambda: Places(_RUNS_AT_ONCE))
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._held: OrderedDict[str, _Held] = OrderedDict()  # the least used first
        self._closing: set[str] = set()
        self.settings.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self._held)

    def enter(self, token: str | None) -> tuple[Session, bool]:
        """The visitor's session, and whether it is new. A token that is not one of ours gets a fresh one."""
        token = token if isinstance(token, str) and _TOKEN.fullmatch(token) else secrets.token_urlsafe(24)
        with self._changed:
            self._changed.wait_for(lambda: token not in self._closing)
            is_new = token not in self._held
            if is_new:
                self._held[token] = _Held(Session(token, Workspace(self._folder(token), self.settings.is_local)))
            self._held[token].pages += 1
            session = self._used(token)
            ended = self._overdue()
        self._close(ended)
        return session, is_new

    def get(self, token: str | None) -> Session:
        """The session of a visitor who has entered; `LoomError` for anybody else."""
        with self._changed:
            if not token or token not in self._held:
                raise LoomError("This page has been away too long", "its session has ended", "reload the page")
            return self._used(token)

    def leave(self, token: str) -> None:
        """A page was closed; if it was the visitor's last, the session ends soon unless they come back."""
        with self._changed:
            held = self._held.get(token)
            if held is not None:
                held.pages -= 1
                held.used = self.clock()

    def end(self, token: str) -> None:
        """End a session now; returns when its files are gone. One that is not there has ended already."""
        with self._changed:
            ended = self._taken([token] if token in self._held else [])
        self._close(ended)

    def _used(self, token: str) -> Session:
        held = self._held[token]
        held.used = self.clock()
        self._held.move_to_end(token)
        return held.session

    def _overdue(self) -> list[Session]:
        """Take out the sessions that are past their time, and the least used where there are too many."""
        now, settings = self.clock(), self.settings
        limits = {token: settings.lifetime if held.pages > 0 else settings.grace for token, held in self._held.items()}
        late = [token for token, held in self._held.items() if now - held.used > limits[token]]
        others = [token for token in self._held if token not in late]
        return self._taken([*late, *others[: max(0, len(others) - settings.capacity)]])

    def _taken(self, tokens: Sequence[str]) -> list[Session]:
        self._closing.update(tokens)
        return [self._held.pop(token).session for token in tokens]

    def _close(self, sessions: Sequence[Session]) -> None:
        for session in sessions:
            try:
                session.close()
            finally:
                with self._changed:
                    self._closing.discard(session.token)
                    self._changed.notify_all()

    def _folder(self, token: str) -> Path:
        folder = self.settings.root / token
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder
