"""The page as a visitor drives it: parts by their ids and roles, and what to wait for. Nothing here asserts."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Download, Locator, Page, Request

from tests.waiting import LIMIT, wait_until

ROOT = Path(__file__).parents[2]
PATIENCE = 1000 * LIMIT  # milliseconds, as Playwright counts
PANELS = ("top", "library", "units", "mixer", "reading", "keeping")
LOOPBACK = {"127.0.0.1", "localhost"}

# What Gradio's client writes to the console when a reload cuts its event streams; benign then, and only then.
CUT_BY_RELOAD = ("AbortError: signal is aborted", "Connection errored out")

# Everything that a visitor can reach or read, except what Gradio itself keeps out of sight.
CONTROLS = """() => [...document.querySelectorAll(
    'main button, main input, main select, main textarea, main summary, main [tabindex="0"]')]
  .filter(e => e.checkVisibility({visibilityProperty: true}) && !e.disabled && e.tabIndex >= 0 && e.type !== 'file')"""
NAME_OF = """e => (e.getAttribute('aria-label') || [...(e.labels || [])].map(l => l.innerText).join(' ')
  || e.innerText || e.title || '').trim()"""


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(eq=False)
class Server:
    """The studio as a visitor's own machine runs it: `python app.py`, in a process of its own."""

    folder: Path
    program: Sequence[str] = ("app.py",)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = self.folder / "server.log"

    def start(self) -> None:
        """Start it, and return at the first 200 answer."""
        own = {"LOOM_WORKSPACE": str(self.folder / "rooms"), "GRADIO_TEMP_DIR": str(self.folder / "gradio")}
        command = [sys.executable, *self.program, "--port", self.url.rpartition(":")[2]]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **own, **self.environment}, stdout=log, stderr=log
            )
        wait_until(lambda: self._answers() or self._process.poll() is not None)
        if self._process.poll() is not None:
            raise RuntimeError(f"The server did not answer:\n{self.log.read_text()}")

    def stop(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tracebacks(self) -> list[str]:
        """The last line of each traceback in the log so far."""
        return re.findall(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n)*(.*)", self.log.read_text(), re.M)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=LIMIT) as reply:
                return bool(reply.status == 200)
        except (URLError, OSError):
            return False


@dataclass(eq=False)
class Visit:
    """One visitor: a browser context of their own, with one page."""

    context: BrowserContext
    url: str
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.set_default_timeout(PATIENCE)
        self.page: Page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._on_console)
        self.context.on("request", self._on_request)

    @classmethod
    def begin(cls, browser: Browser, url: str, *, width: int = 1280, height: int = 800, theme: str = "light") -> Visit:
        """Open the page in a fresh context, and wait until map, merge and text are there."""
        visit = cls(browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True), url)
        visit.page.goto(f"{url}?__theme={theme}", wait_until="domcontentloaded")
        visit.drawn()
        return visit

    def reload(self) -> None:
        """Load the page again; the streams that this cuts are forgiven."""
        before = list(self.errors)
        self.page.reload(wait_until="domcontentloaded")
        self.drawn()
        self.errors[:] = [e for e in self.errors if e in before or not any(cut in e for cut in CUT_BY_RELOAD)]

    # Parts -----------------------------------------------------------------------------------------------------------

    def part(self, id: str) -> Locator:
        """What has this id."""
        return self.page.locator(f"#{id}")

    def slider(self, id: str) -> Locator:
        """The range input of a slider."""
        return self.part(id).get_by_role("slider")

    def number(self, id: str) -> Locator:
        """The number box of a slider."""
        return self.part(id).get_by_role("spinbutton")

    def column(self, kind: str) -> Locator:
        """The text of a column of the preview: `base`, `source` or `merge`."""
        return self.page.locator(f"#columns article.{kind} p")

    def cards(self) -> Locator:
        """The adapters in the library."""
        return self.page.locator("#cards .card")

    def open_tab(self, panel: str, id: str) -> Locator:
        """Bring the tab of a panel to the front that holds this id."""
        for tab in self.part(panel).get_by_role("tab").all():
            if self.part(id).is_visible():
                break
            tab.click()
            self.page.wait_for_function("tab => tab.ariaSelected === 'true'", arg=tab.element_handle())
        return self.part(id)

    # Deeds -----------------------------------------------------------------------------------------------------------

    def choose(self, id: str, option: str) -> None:
        """Pick an option of a dropdown."""
        self.part(id).get_by_role("combobox").click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def drag(self, id: str, share: float) -> None:
        """Pull the thumb of a slider to this share of its way, with the mouse."""
        with self.dragging(id) as to:
            to(share)

    @contextmanager
    def dragging(self, id: str) -> Iterator[Callable[[float], None]]:
        """Hold the thumb of a slider with the mouse, to be pulled to shares of its way, and let it go at the end."""
        slider = self.slider(id)
        slider.scroll_into_view_if_needed()
        low, high = (float(slider.get_attribute(end) or 0) for end in ("min", "max"))
        value = float(slider.input_value())
        box = slider.bounding_box()
        assert box is not None
        y = box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + box["width"] * (value - low) / (high - low), y)
        self.page.mouse.down()
        yield lambda share: self.page.mouse.move(box["x"] + box["width"] * share, y, steps=12)
        self.page.mouse.up()

    def lasso(self, margin: float = 40) -> None:
        """Draw a rectangle around the middle of the map."""
        stage = self.page.locator("#map .stage")
        stage.scroll_into_view_if_needed()
        box = stage.bounding_box()
        assert box is not None
        left, top = box["x"] + margin, box["y"] + margin
        right, bottom = box["x"] + box["width"] - margin, box["y"] + box["height"] - margin
        self.page.mouse.move(left, top)
        self.page.mouse.down()
        for x, y in ((right, top), (right, bottom), (left, bottom), (left, top)):
            self.page.mouse.move(x, y, steps=6)
        self.page.mouse.up()

    def give(self, id: str, files: Sequence[Path]) -> None:
        """Answer the file chooser that a click on this part opens."""
        with self.page.expect_file_chooser() as chooser:
            part = self.part(id)
            (part.get_by_role("button").first if part.evaluate("e => e.tagName") != "BUTTON" else part).click()
        chooser.value.set_files(list(files))

    def drop(self, id: str, files: Sequence[Path]) -> None:
        """Drop files on this part, as from a file manager."""
        held = [{"name": f.name, "data": base64.b64encode(f.read_bytes()).decode()} for f in files]
        transfer = self.page.evaluate_handle(
            """files => {
                const held = new DataTransfer();
                for (const {name, data} of files)
                    held.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name));
                return held;
            }""",
            held,
        )
        target = self.part(id).get_by_role("button").first
        for event in ("dragenter", "dragover", "drop"):
            target.dispatch_event(event, {"dataTransfer": transfer})

    def export(self, folder: Path) -> Path:
        """Export, download, and keep the file under its own name."""
        self.open_tab("keeping", "export").click()
        button = self.part("download")
        button.wait_for()
        with self.page.expect_download() as started:
            button.click()
        download: Download = started.value
        path = folder / download.suggested_filename
        download.save_as(path)
        return path

    # Waiting ---------------------------------------------------------------------------------------------------------

    def until(self, condition: str) -> None:
        """Wait until an expression of the page is true; `map` stands for the map's own figures."""
        self.page.wait_for_function(f"(map => {condition})(window.__loomMap || {{points: 0}})", timeout=PATIENCE)

    def map(self, figure: str) -> int:
        """A figure of the map: points, centroids, muted, picked."""
        return int(self.page.evaluate(f"window.__loomMap.{figure}"))

    def drawn(self) -> None:
        """Wait for the map."""
        self.until("map.points > 0")

    def laid_out(self) -> None:
        """Wait for UMAP's picture in place of the first one, after which the map moves no more by itself."""
        self.page.locator("#map .note", has_text=re.compile("^UMAP of")).wait_for(state="attached")

    def written(self) -> None:
        """Wait until every column is written."""
        self.page.locator("#columns .state", has_text=re.compile(r"^(?!.*…)")).wait_for(state="attached")

    # -----------------------------------------------------------------------------------------------------------------

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def _on_request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in {"data", "blob"} and address.hostname not in LOOPBACK:
            self.foreign.append(request.url)
