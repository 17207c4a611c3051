"""A page of another site whose name was made to resolve to this machine, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

from tests.browser.page import Server
from tests.chromium import FLAGS

# What such a page would do: read the page's description, enter as a visitor, send a file, have one fetched.
DRIVE = """async () => {
  const tried = {};
  const ask = async (what, path, how) => {
    const reply = await fetch(path, how);
    tried[what] = [reply.status, (await reply.text()).length];
  };
  const body = JSON.stringify({data: [{token: '', recipe: ''}], fn_index: 0, session_hash: 'stranger'});
  const file = new FormData();
  file.append('files', new Blob(['x']), 'x.bin');
  await ask('config', '/config');
  await ask('join', '/gradio_api/queue/join', {method: 'POST', headers: {'content-type': 'application/json'}, body});
  await ask('upload', '/gradio_api/upload', {method: 'POST', body: file});
  return tried;
}"""
# From a page of another origin without rebinding: what a browser sends without asking first.
SEND = """async (studio) => {
  const file = new FormData();
  file.append('files', new Blob(['x']), 'x.bin');
  await fetch(studio + '/gradio_api/upload', {method: 'POST', mode: 'no-cors', body: file});
}"""


@pytest.fixture
def studio(tmp_path: Path) -> Any:
    """A local studio."""
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


def test_a_rebound_name_opens_nothing(studio: Server, chromium_path: Path, tmp_path: Path) -> None:
    port = urlsplit(studio.url).port
    flags = [flag for flag in FLAGS if not flag.startswith("--host-resolver-rules")]
    rules = "--host-resolver-rules=MAP rebound.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=[*flags, rules])
        page = browser.new_page()
        page.goto(f"{studio.url}/config")
        own = page.evaluate(DRIVE)
        page.goto(f"http://rebound.example:{port}/config")
        assert page.evaluate("location.hostname") == "rebound.example"
        rebound = page.evaluate(DRIVE)
        before = sorted((tmp_path / "gradio").rglob("*"))
        page.evaluate(SEND, studio.url)
        after = sorted((tmp_path / "gradio").rglob("*"))
        browser.close()
    assert {what: status for what, (status, _) in own.items()} == {"config": 200, "join": 200, "upload": 200}
    assert {what: status for what, (status, _) in rebound.items()} == {"config": 403, "join": 403, "upload": 403}
    assert after == before
