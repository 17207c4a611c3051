"""Draw docs/images/page.png anew: the first visit at 1280 x 800, with the embedded adapters alone.

    PYTHONPATH=. python tools/page_picture.py

Starts the studio on a free port, waits until map, merge and text are there, and takes the picture with the Chromium
that the browser tests drive.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests import chromium
from tests.browser.page import ROOT, Server, Visit

PICTURE = ROOT / "docs" / "images" / "page.png"
SIZE = {"width": 1280, "height": 800}


def draw(browser_path: Path, url: str) -> bytes:
    """The page as a PNG, once UMAP has placed the units and every column is written."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=list(chromium.FLAGS))
        visit = Visit.begin(browser, url, **SIZE)
        visit.page.locator("#map .note", has_text="UMAP of").wait_for(timeout=300_000)
        visit.written()
        visit.part("warming").locator(":scope:not(:has-text('…'))").wait_for(state="attached")
        picture = visit.page.screenshot()
        browser.close()
    return picture


def main() -> None:
    """Write the picture."""
    found = chromium.find()
    if found is None:
        raise SystemExit(f"No Chromium that starts. {chromium.ADVICE}")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        server.start()
        try:
            picture = draw(found, server.url)
        finally:
            server.stop()
    PICTURE.write_bytes(picture)


if __name__ == "__main__":
    main()
