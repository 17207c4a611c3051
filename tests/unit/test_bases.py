"""Finding and opening bases: folders, the Hub's cache, a Hub-shaped server, and everything that is not a base."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from studio.core.adapter import Adapter
from studio.core.errors import LoomError, NotAtHand
from studio.text import folders, store
from studio.text.bases import TextBase, find_base, is_at_hand, open_base
from studio.text.folders import EMBEDDED
from studio.text.store import BaseStore
from tests.text_worlds import model, tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole base on disk."""
    folder = tmp_path_factory.mktemp("saved") / "tiny-llama"
    model("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """A base on disk to break."""
    return Path(shutil.copytree(saved, tmp_path / "copied"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_folder_opens_as_float32_and_frozen(saved: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    base = open_base(str(saved), on_step=lambda *step: steps.append(step))
    assert is_at_hand(str(saved))
    assert (base.base.id, base.base.revision, base.base.title) == (str(saved), None, "tiny-llama")
    assert {p.dtype for p in base.model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not base.model.training
    assert (base.context, base.end_tokens) == (64, {2})
    assert base.decode(base.encode("fox")) == "fox"
    assert steps[-1] == (1, 2, "loading tiny-llama")


def test_half_precision_weights_are_read_as_float32(copied: Path) -> None:
    model("llama").half().save_pretrained(copied)
    assert next(open_base(str(copied)).model.parameters()).dtype == torch.float32


def test_pickled_weights_pass_the_weights_only_loader(copied: Path) -> None:
    torch.save(model("llama").state_dict(), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    assert is_at_hand(str(copied))
    assert torch.equal(open_base(str(copied)).model.lm_head.weight, model("llama").lm_head.weight)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_code_in_a_pickle_is_not_run(copied: Path, tmp_path: Path) -> None:
    torch.save({"lm_head.weight": Bomb(tmp_path / "ran")}, copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    with pytest.raises(NotAtHand, match="cannot be loaded"):
        open_base(str(copied))
    assert not (tmp_path / "ran").exists()


def test_code_in_a_folder_is_not_run(copied: Path, tmp_path: Path) -> None:
    (copied / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit_config(copied, model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    with pytest.raises(NotAtHand, match="cannot be loaded"):
        open_base(str(copied))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("t5", "encoder and writes with a decoder"),
        ("bert", "is an encoder"),
        ("roberta", "is an encoder"),
        ("vit", "not a language model"),
        ("whisper", "encoder and writes with a decoder"),
    ],
)
def test_other_models_are_refused_in_a_plain_sentence(copied: Path, kind: str, why: str) -> None:
    (copied / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(NotAtHand, match=why):
        open_base(str(copied))


def test_weights_that_are_missing_are_not_drawn_at_random(copied: Path) -> None:
    edit_config(copied, num_hidden_layers=3)
    with pytest.raises(NotAtHand, match=r"lacks 9 of its weights.*layers\.2"):
        open_base(str(copied))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"model_type": 7}', b'{"model_type": "llama", "hidden_size": "x"}']
)
def test_broken_configs_are_not_at_hand(copied: Path, content: bytes) -> None:
    (copied / "config.json").write_bytes(content)
    with pytest.raises(NotAtHand):
        open_base(str(copied))


def test_truncated_weights_are_not_at_hand(copied: Path) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(NotAtHand, match="cannot be loaded"):
        open_base(str(copied))


def test_a_foreign_tokenizer_is_named_when_it_is_used(saved: Path) -> None:
    base = open_base(str(saved))
    base.tokenizer.add_tokens([f"<{i}>" for i in range(20)])
    with pytest.raises(LoomError, match="do not belong together"):
        base.encode("<19>")


def test_an_empty_text_begins_with_the_begin_token_or_is_refused(saved: Path) -> None:
    base = open_base(str(saved))
    assert base.encode("") == [1]
    base.tokenizer.bos_token = None
    with pytest.raises(LoomError, match="empty"):
        base.encode("")
    with pytest.raises(LoomError, match="limit"):
        base.encode("a" * 1_000_001)
    assert base.encode("\ud800") == base.encode("?")  # half a character


def test_shards_must_all_be_there(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "model-00001-of-00002.safetensors")
    index = copied / "model.safetensors.index.json"
    for shards, whole in [
        ({"a": "model-00001-of-00002.safetensors"}, True),
        ({"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}, False),
        ({"a": "../copied/model-00001-of-00002.safetensors"}, False),
        ({}, False),
        ([], False),
    ]:
        index.write_text(json.dumps({"weight_map": shards}))
        assert is_at_hand(str(copied)) is whole
    index.write_text("{")
    assert not is_at_hand(str(copied))


@pytest.mark.parametrize("source", ["", "no/such-base", "a/b/c", "../x", "\0", "x" * 300, "/no/such/folder"])
def test_what_is_nowhere_is_not_at_hand(source: str, cache: Path) -> None:
    assert not is_at_hand(source)
    with pytest.raises(NotAtHand):
        open_base(source)


def test_the_embedded_base_is_resolved_from_the_assets(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "EMBEDDED_FOLDER", saved)
    assert is_at_hand(EMBEDDED)
    assert open_base(EMBEDDED).base.id == EMBEDDED
    monkeypatch.setattr(folders, "EMBEDDED_FOLDER", saved / "gone")
    assert not is_at_hand(EMBEDDED)
    with pytest.raises(NotAtHand, match=EMBEDDED):
        open_base(EMBEDDED)


def test_a_cached_snapshot_is_at_hand_with_its_commit(saved: Path, cache: Path) -> None:
    repo = cache / "models--tiny--llama"
    shutil.copytree(saved, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    assert is_at_hand("tiny/llama")
    assert not is_at_hand("tiny/llama", "another-revision")
    base = open_base("tiny/llama").base
    assert (base.revision, base.title) == (COMMIT, "llama")
    (repo / "snapshots" / COMMIT / "tokenizer.json").unlink()
    (repo / "snapshots" / COMMIT / "tokenizer_config.json").unlink()
    assert not is_at_hand("tiny/llama")


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as one small model needs."""

    def __init__(self, folder: Path, *args: object) -> None:
        self.folder = folder
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        path, head, name = self.path.partition("?")[0], self.command == "HEAD", self.path.rpartition("/")[2]
        sizes = {file.name: file.stat().st_size for file in self.folder.iterdir()}
        if path.startswith("/api/models/tiny/llama/tree/"):
            listed = [{"type": "file", "path": n, "size": size, "oid": n} for n, size in sizes.items()]
            body = json.dumps(listed).encode()
        elif path.startswith("/api/models/tiny/llama"):
            siblings = [{"rfilename": n, "size": size} for n, size in sizes.items()]
            body = json.dumps({"id": "tiny/llama", "sha": COMMIT, "siblings": siblings}).encode()
        elif path.startswith("/tiny/llama/resolve/") and (self.folder / name).is_file():
            body = (self.folder / name).read_bytes()
        else:
            return self.send_error(404)
        self.send_response(200)
        for key, value in {"X-Repo-Commit": COMMIT, "ETag": f'"{name}"', "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if not head:
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(copied: Path, cache: Path, hub_online: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Hub-shaped server on loopback that serves `copied` as tiny/llama."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, copied))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", url)
    yield copied
    server.shutdown()
    server.server_close()


def test_a_hub_id_is_downloaded_once_and_only_what_is_needed(hub: Path) -> None:
    (hub / "pytorch_model.bin").write_bytes(b"not wanted beside safetensors")
    (hub / "train.py").write_text("never")
    assert not is_at_hand("tiny/llama")
    base = open_base("tiny/llama")
    assert base.base.revision == COMMIT
    assert is_at_hand("tiny/llama")
    shutil.rmtree(hub)  # the second time nothing is asked
    assert open_base("tiny/llama").base.revision == COMMIT
    here = {file.name for file in Path(folders.folder_at_hand("tiny/llama", None) or "").iterdir()}
    assert "model.safetensors" in here
    assert not here & {"pytorch_model.bin", "train.py"}


def test_a_download_beyond_the_limit_is_refused(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_DOWNLOAD_BYTES", 1000)
    with pytest.raises(NotAtHand, match=r"(?i)the limit is"):
        open_base("tiny/llama")


def test_a_hub_id_without_weights_is_refused(hub: Path) -> None:
    (hub / "model.safetensors").unlink()
    with pytest.raises(NotAtHand, match="no weights"):
        open_base("tiny/llama")


def named(base: str | None) -> Adapter:
    return Adapter("a", {}, "test", base=base)


def test_the_base_is_the_one_the_adapters_name() -> None:
    assert find_base([named("a/b"), named(None), named("a/b")]) == "a/b"
    with pytest.raises(NotAtHand, match="do not name"):
        find_base([named(None)])
    with pytest.raises(NotAtHand, match=r"2 bases.*a/b, c/d"):
        find_base([named("c/d"), named("a/b")])


def test_the_store_loads_a_base_once_for_all_threads(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    gate = threading.Barrier(4)

    def slow_open(source: str, revision: str | None, *, on_step: object) -> TextBase:
        opened.append(source)
        return open_base(source, revision)

    monkeypatch.setattr(store, "open_base", slow_open)
    bases, found = BaseStore(), []

    def ask() -> None:
        gate.wait()
        found.append(bases.get(str(saved)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert opened == [str(saved)]
    assert len({id(base) for base in found}) == 1


def test_the_store_is_bounded_and_forgets_the_least_used(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(store, "open_base", lambda source, revision, on_step: opened.append(source) or object())
    bases = BaseStore(capacity=2)
    for source in ["a", "b", "a", "c", "a", "b"]:
        bases.get(source)
    assert opened == ["a", "b", "c", "b"]


def test_a_failure_is_not_kept(copied: Path) -> None:
    bases = BaseStore()
    config = (copied / "config.json").read_text()
    (copied / "config.json").write_text("{")
    with pytest.raises(NotAtHand):
        bases.get(str(copied))
    (copied / "config.json").write_text(config)
    assert bases.get(str(copied)).base.title == "copied"
