"""Whom the studio answers, by real requests: a local one by its own names alone, none to a page of another site."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import pytest

from tests.browser.page import Server

JOIN = json.dumps({"data": [{"token": "", "recipe": ""}], "fn_index": 0, "session_hash": "stranger"}).encode()
JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=b"}
UPLOAD = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.bin"\r\n\r\nx\r\n--b--\r\n'
STRANGERS = (
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1.evil.example",
    "localhost.evil.example:{port}",
    "127.0.0.1@evil.example",
    "evil.example@127.0.0.1",
    "0.0.0.0:{port}",
    "192.168.0.7:{port}",
    "2130706433",
    "[::1].evil.example",
    "[::ffff:127.0.0.1]",
    "",
)
ORIGINS = ("http://evil.example", "http://127.0.0.1:1", "http://localhost:{port}", "null", "file://", "https:/x", "")
UPLOADS = "/gradio_api/upload"
OWN = ("127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "localhost:8888", "[::1]:{port}", "tunnel.example:{port}")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A studio on this machine, which a tunnel leads to, too."""
    started = Server(
        tmp_path_factory.mktemp("local"), environment={"LOOM_ALLOWED_HOSTS": "other.example, Tunnel.example"}
    )
    started.start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A studio as on a Space."""
    environment = {"LOOM_LOCAL": "0", "SPACE_HOST": "owner-loom.hf.space"}
    started = Server(tmp_path_factory.mktemp("shared"), environment=environment)
    started.start()
    yield started
    started.stop()


def ask(server: Server, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> tuple[int, str]:
    """A request with headers as they are given; `{port}` in them is the server's."""
    netloc = urlsplit(server.url).netloc
    connection = http.client.HTTPConnection(netloc, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    for name, value in {"host": netloc, "content-length": str(len(body)), **headers}.items():
        connection.putheader(name, value.format(port=netloc.rpartition(":")[2]))
    connection.endheaders(body)
    reply = connection.getresponse()
    return reply.status, reply.read().decode(errors="replace")


def join(server: Server, **headers: str) -> int:
    """The status of a call of a handler."""
    return ask(server, "POST", "/gradio_api/queue/join", {**JSON, **headers}, JOIN)[0]


@pytest.mark.parametrize("host", STRANGERS)
def test_a_local_studio_does_not_answer_to_another_name(local: Server, host: str) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", "/config"),
        ("GET", "/gradio_api/file=x"),
        ("POST", UPLOADS),
    ):
        status, said = ask(local, method, path, {"host": host})
        assert status == 403, path
        assert "LOOM_ALLOWED_HOSTS" in said
    assert join(local, host=host, origin=f"http://{host}") == 403


@pytest.mark.parametrize("host", OWN)
def test_a_local_studio_answers_to_its_own_names(local: Server, host: str) -> None:
    assert ask(local, "GET", "/config", {"host": host})[0] == 200
    assert join(local, host=host) == 200
    assert join(local, host=host, origin=f"http://{host}") == 200


def test_two_names_at_once_are_none(local: Server) -> None:
    connection = http.client.HTTPConnection(urlsplit(local.url).netloc, timeout=60)
    connection.putrequest("GET", "/config")  # with its own host
    connection.putheader("Host", "localhost")
    connection.endheaders()
    assert connection.getresponse().status in {400, 403}


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://127.0.0.1:1", "http://localhost:{port}", "null", "file://", "https:/x", ""],
)
def test_no_page_of_another_origin_calls_or_sends_files(local: Server, shared: Server, origin: str) -> None:
    for server in (local, shared):
        assert join(server, origin=origin) == 403
        assert ask(server, "POST", UPLOADS, {**FORM, "origin": origin}, UPLOAD)[0] == 403


def test_the_page_itself_calls_and_sends_files(local: Server, shared: Server) -> None:
    for server in (local, shared):
        for headers in ({}, {"origin": server.url}):
            assert join(server, **headers) == 200
            assert ask(server, "POST", UPLOADS, {**FORM, **headers}, UPLOAD)[0] == 200


def test_a_named_host_is_an_origin_too_behind_a_proxy_that_ends_tls(local: Server, shared: Server) -> None:
    assert join(local, origin="https://tunnel.example") == 200
    assert join(shared, host="10.0.0.3:7860", origin="https://owner-loom.hf.space") == 200
    assert join(shared, host="studio.example", origin="https://studio.example") == 200
    assert join(shared, host="studio.example:443", origin="https://studio.example") == 200


def test_a_shared_studio_answers_to_any_name(shared: Server) -> None:
    assert ask(shared, "GET", "/", {"host": "any.example"})[0] == 200


def test_no_other_site_may_frame_a_local_studio(local: Server, shared: Server) -> None:
    for server, expected in ((local, "frame-ancestors 'self'"), (shared, None)):
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
        connection.request("GET", "/")
        assert connection.getresponse().getheader("content-security-policy") == expected
