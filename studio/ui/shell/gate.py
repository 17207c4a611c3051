"""Whom the studio answers: a local one only who calls it by its own name, and no page of another site changes anything.

A page of another site can have its own name resolve to this machine (DNS rebinding) and then read and call what listens
there as if it were its own server; only the name in the Host header tells. And any page can send a form or a file to
any address; only the Origin header tells.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_CHANGES_NOTHING = frozenset({"GET", "HEAD", "OPTIONS"})
_NETLOC = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:/@\s]+))(?::(\d{1,5}))?", re.IGNORECASE)
_ORIGIN = re.compile(r"(https?)://(.+)", re.IGNORECASE)
_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class Names:
    """The names that a studio is called by, without ports: a tunnel to it may have another port.

    A local one is called by those of this machine, by the `host` that it listens on and by those in `others`. One that
    is not is called by whatever name the world has for it; pages of `others` may call it, too.
    """

    is_local: bool
    host: str
    others: frozenset[str] = frozenset()

    def refusal(self, method: str, headers: Headers) -> str | None:
        """Why a request is not answered, in a sentence; None where it is."""
        hosts = headers.getlist("host")
        host = _split(hosts[0]) if len(hosts) == 1 else None
        if self.is_local and (host is None or host[0] not in LOOPBACK | {self.host} | self.others):
            return f"This studio does not answer to {_shown(hosts)}."
        if method in _CHANGES_NOTHING:
            return None
        foreign = [origin for origin in headers.getlist("origin") if not self._is_own(origin, host)]
        return f"This studio takes nothing from pages of {_shown(foreign)}." if foreign else None

    def _is_own(self, origin: str, host: tuple[str, str | None] | None) -> bool:
        """Whether an origin is the address that was called, or a name that is given."""
        match = _ORIGIN.fullmatch(origin)
        page = _split(match[2]) if match else None
        if match is None or page is None:
            return False
        if page[0] in self.others:
            return True
        default = _PORTS[match[1].lower()]
        return host is not None and (page[0], page[1] or default) == (host[0], host[1] or default)


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """Answers 403 in place of the app where `names` refuse a request; no other site may frame a local studio."""

    app: ASGIApp
    names: Names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return

        async def unframed(message: Message) -> None:
            if message["type"] == "http.response.start" and self.names.is_local:
                MutableHeaders(scope=message)["content-security-policy"] = "frame-ancestors 'self'"
            await send(message)

        refusal = self.names.refusal(scope.get("method", "GET"), Headers(scope=scope))
        if refusal is None:
            await self.app(scope, receive, unframed)
        else:
            way_out = "If that is right, name the host in LOOM_ALLOWED_HOSTS and start the studio again."
            await PlainTextResponse(f"{refusal} {way_out}\n", 403)(scope, receive, send)


def _split(netloc: str) -> tuple[str, str | None] | None:
    """Name and port; None where it is no such thing."""
    match = _NETLOC.fullmatch(netloc)
    return ((match[1] or match[2]).lower(), match[3]) if match else None


def _shown(values: list[str]) -> str:
    return ascii(", ".join(values)[:120])
