"""The Chromium that browser tests drive: found on the machine or, run as a script, fetched.

Looked for in this order: the path in LOOM_CHROMIUM, a system browser, the build that Playwright keeps for itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",  # containers run as root
    "--use-gl=swiftshader",  # WebGL on machines without a GPU: this and the next two
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",  # a page that needs a CDN fails
)
ADVICE = "Install one (Debian: apt-get install chromium) or put the path of one in LOOM_CHROMIUM."


def find() -> Path | None:
    """The first Chromium that starts, if any; a LOOM_CHROMIUM that does not start is not passed over."""
    chosen = os.environ.get("LOOM_CHROMIUM")
    candidates = [chosen] if chosen else [*filter(None, map(shutil.which, NAMES)), _playwrights_own()]
    return next((Path(path) for path in candidates if _starts(path)), None)


def fetch() -> None:
    """Try the package manager when root, then Playwright's download; whether it helped is for `find` to say."""
    if shutil.which("apt-get") and os.geteuid() == 0:
        _run("apt-get", "update", "-qq")
        if _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"):
            return
    _run(sys.executable, "-m", "playwright", "install", "chromium")


def _playwrights_own() -> str:
    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def _starts(path: str) -> bool:
    """Being on PATH is not enough: Ubuntu's is a stub without snapd, and a download may lack system libraries."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=600).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _run(*command: str) -> bool:
    print("chromium:", *command, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command, env=environment).returncode == 0


def main() -> int:
    """Make sure there is a Chromium; 1 and a line that says what to do when there cannot be."""
    found = find()
    if found is None and "LOOM_CHROMIUM" not in os.environ:
        fetch()
        found = find()
    print(f"chromium: {found}" if found else f"chromium: none that starts. {ADVICE}", flush=True)
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
