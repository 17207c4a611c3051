"""Try an installed studio as a new user would: every verb, and the page by GET, from an empty folder.

`python tools/installed.py BIN`, where BIN is the folder of an environment's scripts that has `loom`. Nothing of the
checkout is used. Prints seconds for each step; exits with 1 at the first that fails.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

SECONDS = 300.0
PAIR = ("loom:math", "loom:shout")
PICTURES = """
from pathlib import Path
from PIL import Image
for name, colour in (("a", "navy"), ("a2", "orange"), ("b", "navy")):
    Image.new("RGB", (64, 64), colour).save(Path(name).with_suffix(".png"))
"""
VERBS: tuple[tuple[str, ...], ...] = (
    ("--version",),
    ("methods",),
    ("inspect", *PAIR),
    ("merge", *PAIR, "--weights", "1,1", "-o", "both"),
    ("inspect", "both"),
    ("learn", *PAIR, "--examples", "math+shout", "--count", "8", "--steps", "2", "-o", "soup.yaml"),
    ("score", "soup.yaml", "--task", "math+shout", "--n", "4"),
    ("route", *PAIR, "--examples", "math,shout", "--count", "4", "--steps", "2", "-o", "router.safetensors"),
    ("analogy", "--a", "a.png", "--a2", "a2.png", "--b", "b.png", "-o", "b2.png"),
)


def main(scripts: Path) -> int:
    """Run every step in a temporary folder."""
    loom = scripts / ("loom.exe" if os.name == "nt" else "loom")
    with tempfile.TemporaryDirectory(prefix="loom-installed-") as folder:
        run(Path(folder), scripts / "python", "-c", PICTURES)
        for verb in VERBS:
            run(Path(folder), loom, *verb)
        get_page(Path(folder), loom)
    return 0


def environment() -> dict[str, str]:
    """This process's environment without what could lead back to the checkout; no Hub, no analytics."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}


def run(folder: Path, *command: object) -> None:
    """Run one command; ends the script where it fails."""
    begun = time.monotonic()
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=SECONDS)
    print(f"{time.monotonic() - begun:6.1f} s  {Path(words[0]).name} {words[1]}: {done.returncode}", flush=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


def get_page(folder: Path, loom: Path) -> None:
    """Start `loom` alone on a free port and get its page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = time.monotonic()
    own = {**environment(), "GRADIO_SERVER_PORT": str(port), "LOOM_WORKSPACE": str(folder / "workspace")}
    with (folder / "page.log").open("w") as log:
        server = subprocess.Popen([str(loom)], cwd=folder, env=own, stdout=log, stderr=log)
        try:
            status = answer(port, server)
        finally:
            server.terminate()
            server.wait(SECONDS)
    print(f"{time.monotonic() - begun:6.1f} s  loom, then GET /: {status}", flush=True)
    if status != 200:
        sys.exit((folder / "page.log").read_text())


def answer(port: int, server: subprocess.Popen[bytes]) -> int:
    """The status that the page answers with; 0 where the server ended or did not answer in time."""
    until = time.monotonic() + SECONDS
    while server.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as reply:
                return int(reply.status) if b"LoRA Loom" in reply.read() else 0
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
