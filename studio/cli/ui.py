"""The verb `ui`, and what `loom` alone does: open the page."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from studio.core.errors import LoomError

_LAST_PORT = 65535


def add_ui(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the verb by a subparsers' `add_parser`."""
    verb = add("ui", help="open the page; the same as `loom` alone")
    verb.add_argument(
        "--host",
        default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        help="address to listen on; 0.0.0.0 is every one; default: 127.0.0.1",
    )
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    verb.add_argument("--port", type=int, default=port, help="port to listen on; default: 7860")
    verb.add_argument("--browser", action="store_true", help="open a browser window too")
    verb.set_defaults(run=_ui)


def _ui(options: argparse.Namespace) -> int:
    if not 0 < options.port <= _LAST_PORT:
        raise LoomError(f"{options.port} is not a port", f"ports are 1 to {_LAST_PORT}")
    # Before torch is imported: threads that wait must not burn the cores that another visitor's merge needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from studio.ui.shell.launch import launch

    launch(options.host, options.port, open_browser=options.browser)
    return 0
