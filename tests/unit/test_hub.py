"""Fetching from a Hub, against a small server of its shape on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from studio.core.errors import LoomError, MissingFile, NotAtHand, Refused
from studio.core.hub_ids import looks_like_id
from studio.formats import open_adapter
from studio.formats.containers.hub import MAX_BYTES, fetch, pinned_revision
from tests.fixtures import peft_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serves repositories: id -> {file name: content}; `sizes` overrides what the listing claims."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.sizes: dict[str, int] = {}
        self.commit = COMMIT
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.server.asked.append("/".join(parts))
        if parts[:2] == ["api", "models"]:
            self._answer_listing("/".join(parts[2:4]), parts[5] if parts[4:5] == ["revision"] else "main")
        else:
            self._answer_file("/".join(parts[:2]), "/".join(parts[4:]), body)

    def _answer_listing(self, repository: str, revision: str) -> None:
        files = self.server.repositories.get(repository)
        if files is None:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", self.server.commit):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        sizes = {name: self.server.sizes.get(name, len(content)) for name, content in files.items()}
        siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
        listing = {"id": repository, "sha": self.server.commit, "siblings": siblings, "tags": [], "private": False}
        return self._send(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

    def _answer_file(self, repository: str, name: str, body: bool) -> None:
        content = self.server.repositories.get(repository, {}).get(name)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": self.server.commit}
        return self._send(200, content, headers, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, hub_online: None) -> Iterator[HubServer]:
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def adapter_files(tmp_path: Path) -> dict[str, bytes]:
    folder = peft_folder(tmp_path / "source", seed=3)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_fetch_brings_the_adapter_at_its_commit_and_nothing_else(
    hub: HubServer, adapter_files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.repositories["some/adapter"] = {**adapter_files, "README.md": b"card", "optimizer.pt": b"x", "a/b.bin": b"y"}
    folder = fetch("some/adapter", into=tmp_path / "cache")
    assert folder.name == COMMIT
    assert {file.name for file in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert not any("optimizer" in asked for asked in hub.asked)
    opened = open_adapter(folder)
    assert opened.name == "adapter"
    assert opened.norm() == open_adapter(tmp_path / "source").norm() == open_adapter("some/adapter").norm()


def test_revision_is_pinned_to_a_commit(hub: HubServer, adapter_files: dict[str, bytes], tmp_path: Path) -> None:
    hub.repositories["some/adapter"] = adapter_files
    assert pinned_revision("some/adapter") == pinned_revision("some/adapter", COMMIT) == COMMIT
    assert fetch("some/adapter", COMMIT, tmp_path).name == COMMIT


@pytest.mark.parametrize(
    ("hub_id", "revision", "error"),
    [
        ("nobody/nothing", None, MissingFile),
        ("some/adapter", "no-such-branch", MissingFile),
        ("some/adapter", "../../etc", Refused),
        ("just-a-name", None, Refused),
        ("../../etc/passwd", None, Refused),
        ("http://evil/x", None, Refused),
        ("a/b/c", None, Refused),
    ],
)
def test_bad_ids_are_refused(
    hub: HubServer,
    adapter_files: dict[str, bytes],
    tmp_path: Path,
    hub_id: str,
    revision: str | None,
    error: type[LoomError],
) -> None:
    hub.repositories["some/adapter"] = adapter_files
    with pytest.raises(error):
        fetch(hub_id, revision, tmp_path)


def test_a_repository_without_one_adapter_is_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories["some/two"] = {"a.safetensors": b"1", "b.safetensors": b"2", "optimizer.pt": b"3"}
    hub.repositories["some/none"] = {"README.md": b"only words"}
    for hub_id in ("some/two", "some/none"):
        with pytest.raises(Refused, match="no single adapter"):
            fetch(hub_id, into=tmp_path)


def test_an_adapter_in_a_folder_of_its_own_is_fetched_alone(
    hub: HubServer, adapter_files: dict[str, bytes], tmp_path: Path
) -> None:
    whole = {"config.json": b"{}", "model-00001-of-00002.safetensors": b"1", "model-00002-of-00002.safetensors": b"2"}
    inside = {
        f"{name}-lora/{file}": content for name in ("vision", "speech") for file, content in adapter_files.items()
    }
    hub.repositories["some/phi"] = {**whole, **inside}
    folder = fetch("some/phi#speech", into=tmp_path)
    assert folder.name == "speech-lora"
    assert len(open_adapter(folder).modules) > 0
    files = [asked.partition(f"resolve/{COMMIT}/")[2] for asked in hub.asked[1:]]
    assert {file.partition("/")[0] for file in files} == {"speech-lora"}
    with pytest.raises(Refused, match="2 weights files at its top"):
        fetch("some/phi#smell", into=tmp_path)


def test_size_is_capped_before_anything_is_downloaded(
    hub: HubServer, adapter_files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.repositories["some/huge"] = adapter_files
    hub.sizes["adapter_model.safetensors"] = MAX_BYTES + 1
    with pytest.raises(Refused, match=r"(?i)the limit is"):
        fetch("some/huge", into=tmp_path)
    assert len(hub.asked) == 1


def test_an_answer_that_is_no_commit_is_not_believed(
    hub: HubServer, adapter_files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.repositories["some/adapter"] = adapter_files
    hub.commit = "../../evil"
    with pytest.raises(LoomError, match="named no commit"):
        fetch("some/adapter", into=tmp_path)


def test_no_server_says_so(monkeypatch: pytest.MonkeyPatch, hub_online: None, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NotAtHand, match="cannot be reached"):
        fetch("some/adapter", into=tmp_path)


def test_offline_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotAtHand, match="cannot be reached"):
        fetch("some/adapter", into=tmp_path)


def test_ids_are_told_from_paths() -> None:
    assert looks_like_id("owner/some-adapter_v1.2")
    assert not any(map(looks_like_id, ("owner", "./a/b", "/a/b", "a/../b", "a\\b", "ä/b", "C:/x/y")))
