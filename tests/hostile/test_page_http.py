"""The page's server against those who do not use the page: paths, forged payloads, hostile recipes."""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import plotly
import pytest

from tests.browser.page import ROOT, Server
from tests.fixtures import peft_folder
from tests.waiting import LIMIT

PLOTLY = (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").resolve().as_posix()
ENTRY = (ROOT / "app.py").as_posix()
HOSTNAME = "/etc/hostname"
LEAKS = ("Traceback", "site-packages", 'File "', "studio/")

# For each input of a handler, something that its control would never send.
PAYLOADS: Mapping[str, Any] = {
    "nothing": None,
    "text": "<img src=x onerror=alert(1)>",
    "a huge number": 10**30,
    "a huge list": [0] * 10_000,
    "nested": {"a": [{"b": [[[]]]}]},
    "a file of the server": {"path": HOSTNAME, "meta": {"_type": "gradio.FileData"}},
}
RECIPES = {
    "python": b"!!python/object/apply:os.system ['touch /tmp/pwned']",
    "laughs": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(ord("b"), ord("k"))),
    "path": b"format: 1\nsources:\n- {path: /etc}\nmethod: cat\n",
    "traversal": b'format: 1\nsources:\n- {path: "upload:../../etc"}\nmethod: cat\n',
    "binary": bytes(range(256)) * 64,
    "deep": b"[" * 100_000,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A studio that is not local, as on a Space."""
    started = Server(tmp_path_factory.mktemp("server"), environment={"LOOM_LOCAL": "0"})
    started.start()
    yield started
    started.stop()


@dataclass(eq=False)
class Client:
    """Somebody who speaks the queue's protocol by hand."""

    url: str
    session: str = field(default_factory=lambda: secrets.token_hex(6))

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=f"{self.url}/", timeout=LIMIT)
        self.config = self.http.get("config").json()
        self.listeners: list[dict[str, Any]] = self.config["dependencies"]

    def listener(self, id: str, event: str) -> int:
        """The number of the handler that listens to an event of the control with this id."""
        named = {part["props"].get("elem_id"): part["id"] for part in self.config["components"]}
        target = [named.get(id), event]
        (found,) = [one["id"] for one in self.listeners if target in one["targets"]]
        return int(found)

    def enter(self, stored: Any = None) -> dict[str, Any]:
        """What the page does first; gives back what the browser keeps."""
        (load,) = [one for one in self.listeners if any(event == "load" for _, event in one["targets"])]
        (done,) = self.call([(load["id"], [stored])])
        assert done["success"], done
        self.kept = dict(done["output"]["data"][1])
        return self.kept

    def recipe(self) -> str:
        """What is in the workspace now, as a page opened with the same token sees it."""
        return str(Client(self.url).enter(self.kept)["recipe"])

    def call(self, calls: Sequence[tuple[int, list[Any]]], event: Any = None) -> list[dict[str, Any]]:
        """The last message to each of these calls of (handler, data); a call that is refused at once counts too."""
        waiting, last = set(), []
        for number, data in calls:
            asked = {"fn_index": number, "data": data, "session_hash": self.session, "event_data": event}
            reply = self.http.post("gradio_api/queue/join", json=asked)
            assert reply.status_code < 500, reply.text
            if reply.status_code == 200:
                waiting.add(reply.json()["event_id"])
            else:
                last.append({"success": False, "output": reply.text})
        if not waiting:
            return last
        with self.http.stream("GET", "gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    waiting.discard(message["event_id"])
                    last.append(message)
                if not waiting:
                    return last
        raise AssertionError(f"{len(waiting)} calls were never answered")

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        """A file as an upload button sends it."""
        (path,) = self.http.post("gradio_api/upload", files={"files": (name, content)}).json()
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture
def client(server: Server) -> Client:
    """Somebody who has entered."""
    made = Client(server.url)
    made.enter()
    return made


def get(url: str, path: str) -> tuple[int, bytes]:
    """A request whose path nobody tidies on the way."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=LIMIT)
    connection.request("GET", path)
    reply = connection.getresponse()
    return reply.status, reply.read()


@pytest.mark.parametrize(
    "path",
    [
        HOSTNAME,
        ENTRY,
        f"{PLOTLY}/../../../../../../../..{HOSTNAME}",
        f"{PLOTLY}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e{HOSTNAME}",
        PLOTLY.replace("plotly.min.js", "../__init__.py"),
        PLOTLY.replace("plotly.min.js", ""),
        f"//{HOSTNAME}",
        "../../../../../../etc/hostname",
        "file://" + HOSTNAME,
    ],
)
def test_no_file_but_plotly_is_served(server: Server, path: str) -> None:
    secret = [Path(HOSTNAME).read_bytes().strip(), (ROOT / "app.py").read_bytes()[:60]]
    for prefix in ("/gradio_api/file=", "/gradio_api/file/", "/static/", "/assets/", "/theme.css/../"):
        status, body = get(server.url, prefix + path)
        assert status in {307, 400, 403, 404}, (prefix, status)
        assert not any(held and held in body for held in secret)


def test_plotly_is_served(server: Server) -> None:
    assert get(server.url, f"/gradio_api/file={PLOTLY}")[0] == 200


@pytest.mark.parametrize("kind", PAYLOADS)
def test_no_payload_breaks_the_server_or_tells_of_its_inside(client: Client, kind: str) -> None:
    calls = [(one["id"], [PAYLOADS[kind]] * len(one["inputs"])) for one in client.listeners if len(one["inputs"]) > 1]
    assert len(calls) > 30
    said = json.dumps([message["output"] for message in client.call(calls) if not message["success"]])
    assert said != "[]"
    assert [leak for leak in LEAKS if leak in said] == []
    assert Path(HOSTNAME).read_text().strip() not in said
    assert "loom:math" in client.recipe()


@pytest.mark.parametrize("count", [0, 1, 50])
def test_a_wrong_number_of_inputs_is_refused(client: Client, count: int) -> None:
    (done,) = client.call([(client.listener("prompt", "submit"), [None] * count)])
    assert not done["success"]
    assert not any(leak in json.dumps(done) for leak in LEAKS)


@pytest.mark.parametrize("ids", [[10**9], [-1], ["0"], list(range(200_000)), {"0": 0}, None])
def test_a_selection_of_points_that_are_not_there_is_refused(client: Client, ids: Any) -> None:
    (done,) = client.call([(client.listener("map", "pick"), [None])], {"how": "lasso", "ids": ids})
    assert not done["success"]
    assert not any(leak in json.dumps(done) for leak in LEAKS)


@pytest.mark.parametrize("token", ["../../etc", "x" * 31 + "/", "", 7, None, ["a"], {"a": 1}, "A" * 32])
def test_a_forged_token_finds_nothing_of_others(server: Server, client: Client, token: Any) -> None:
    mine = client.upload("mine.safetensors", peft_weights(server.folder))
    client.call([(client.listener("drop", "upload"), [None, [mine]])])
    assert "mine" in client.recipe()
    kept = Client(server.url).enter({"token": token, "recipe": ""})
    assert "mine" not in kept["recipe"]
    assert kept["token"] != client.kept["token"]
    assert "loom:math" in kept["recipe"]


def test_the_token_alone_opens_the_workspace(client: Client) -> None:
    again = Client(client.url).enter({"token": client.kept["token"], "recipe": "method: nonsense"})
    assert again == client.kept
    assert len(again["token"]) == 32


@pytest.mark.parametrize("name", RECIPES)
def test_a_hostile_recipe_is_refused_with_a_reason(client: Client, name: str) -> None:
    before = client.recipe()
    sent = client.upload("recipe.yaml", RECIPES[name])
    (done,) = client.call([(client.listener("open-recipe", "upload"), [None, sent])])
    assert not done["success"]
    assert done["output"]["error"]
    assert not any(leak in json.dumps(done) for leak in LEAKS)
    assert not Path("/tmp/pwned").exists()
    assert client.recipe() == before


def test_a_studio_that_is_not_local_opens_no_path(client: Client, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "theirs")
    for place in (str(folder), f"{folder}/../theirs", "~", "."):
        (done,) = client.call([(client.listener("add", "click"), [None, place])])
        assert "opens no files of its own machine" in json.dumps(done["output"]), place
    assert "theirs" not in client.recipe()


def peft_weights(folder: Path) -> bytes:
    """A small adapter's weights."""
    return (peft_folder(folder / "weights") / "adapter_model.safetensors").read_bytes()
