"""Opening the page: one place for every launch setting, none left to a default that differs by host or version."""

from __future__ import annotations

import os

from huggingface_hub import constants
from starlette.middleware import Middleware

from studio.session.store import Settings
from studio.ui.shell.gate import Gate, Names
from studio.ui.shell.page import build
from studio.ui.shell.theme import CSS, theme


def launch(host: str = "127.0.0.1", port: int = 7860, *, open_browser: bool = False, block: bool = True) -> str:
    """Serve the page and return its address. On a Space the host is every address, elsewhere what is given.

    The heavy packages are loaded once the page answers: before that they would only make the first visitor wait.
    """
    host = "0.0.0.0" if "SPACE_ID" in os.environ else host
    settings = Settings.from_environment(host)
    if not settings.is_local:
        keep_token_private()
    page = build(settings)
    page.demo.queue(default_concurrency_limit=4, max_size=256)
    _, local, _ = page.demo.launch(
        server_name=host,
        server_port=port,
        inbrowser=open_browser,
        share=False,
        ssr_mode=False,
        run_history=False,
        show_error=False,
        max_file_size="2gb",
        footer_links=["settings"],
        theme=theme(),
        css=CSS,
        prevent_thread_lock=True,
        app_kwargs={"middleware": [Middleware(Gate, Names(settings.is_local, host, settings.hosts))]},
        _frontend=False,  # leaves out Gradio's look at its own page, which ends a server that takes over three seconds
    )
    page.shared.warm.start()
    if block:
        page.demo.block_thread()
    return str(local)


def keep_token_private() -> None:
    """Send no Hub token that this machine holds: visitors must not read what only its owner may."""
    constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = True
