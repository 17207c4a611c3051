"""The verb `route`: train, write, judge beside others, and let the router write; one line of trouble."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studio.cli import main as cli
from studio.formats import open_adapter
from studio.routing.router import load_router

PAIR = ("loom:math", "loom:shout")
FAST = ("--count", "3", "--steps", "2", "--batch", "2", "--samples", "2")


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = cli.main(["route", *(str(argument) for argument in arguments)])
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("router") / "r.safetensors"
    skills = "math,shout,math+shout"
    assert cli.main(["route", *PAIR, "--examples", skills, "--k", "2", "--with-base", *FAST, "-o", str(out)]) == 0
    return out


def test_a_router_is_trained_and_written(router: Path) -> None:
    found = load_router(router)
    assert found.names == ("math", "shout", "(base)")
    assert (found.k, found.kind, found.granularity, found.reads) == (2, "remix", "sequence", "embedding")
    assert found.base == "lora-loom/text-base"


def test_it_is_judged_beside_others_as_json(router: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beside = ("--beside", "uniform,oracle,arrow,softmax", "--json")
    status, out, _ = call(capsys, *PAIR, "--router", router, "--test", "math,shout:test", "--n", 2, *beside)
    told = json.loads(out)
    found = told["judged"]
    assert status == 0
    assert told["router"] == str(router)
    assert list(found) == ["router", "uniform", "oracle", "arrow", "softmax"]
    assert found["router"]["support"] == found["oracle"]["support"] == 2
    assert found["uniform"]["support"] == pytest.approx(3)
    assert found["oracle"]["loss"] <= found["router"]["loss"] + 1e-6
    assert "Only a router trained here" in found["softmax"]["refused"]  # this one came from a file
    assert found["router"]["tasks"] == ["math", "shout"]


def test_training_alone_prints_its_figures_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out_file = tmp_path / "r.safetensors"
    status, out, err = call(capsys, *PAIR, "--examples", "math,shout", *FAST, "-o", out_file, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["router"] == str(out_file)
    assert found["names"] == ["math", "shout"]
    assert (found["steps"], len(found["losses"])) == (2, 2)
    assert [step for step, _ in found["valid"]] == [0, 1, 2]
    assert found["lowest"] == min(loss for _, loss in found["valid"]) == found["measures"]["loss"]
    assert f"lowest validation loss {found['lowest']:.4f}" in err
    assert found["measures"]["support"] == 1


def test_what_it_writes_is_told_in_the_same_json(router: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = ("--router", router, "--prompt", "Question: Say: fox\nAnswer in capitals:", "--tokens", 3)
    _, lines, _ = call(capsys, *PAIR, *question)
    _, out, _ = call(capsys, *PAIR, *question, "--json")
    written = json.loads(out)["written"]
    assert "".join(f"[{run['by']}]{run['text']}\n" for run in written) == lines


def test_it_writes_and_says_who_answered(router: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "Question: What is two plus three?\nAnswer in capitals:"
    status, out, _ = call(capsys, *PAIR, "--router", router, "--prompt", prompt, "--tokens", 3)
    assert status == 0
    assert out.startswith("[")


def test_adapters_can_be_trained_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": f"Question: {i}\nAnswer:", "answer": "yes"}) + "\n" for i in range(4))
    )
    status, _, err = call(capsys, *PAIR, "--examples", file, *FAST, "--out-adapters", tmp_path / "out")
    assert status == 0, err
    assert open_adapter(tmp_path / "out" / "math").rank == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "either --examples or --router"),
        (("--examples", "math", "--k", "9"), "lies between 1"),
        (("--examples", "math", "--samples", "1"), "lies between 2"),
        (("--examples", "nothing.jsonl"), "neither a skill nor a file"),
        (("--examples", "math", "--count", "-1"), "-1 items of math"),
        (("--examples", "math", "--test", "math", "--n", "0"), "0 items of math"),
        (("--examples", "math", "--test", "nosuch"), "neither a skill nor a file"),
        (("--examples", "math", "--prompt", "hi", "--tokens", "-1"), "max_tokens is -1"),
        (("--examples", "math", "--rate", "0"), "rate is 0"),
        (("--examples", "math", "--ratio", "nan"), "ratio is nan"),
        (("--router", "nothing.safetensors"), "is not a router"),
        (("--examples", "math,shout", "--beside", "oracle,xlora"), "there is no --test"),
        (("--examples", "math,shout", "--test", "math:test", "--beside", "orcale"), "'orcale' cannot be compared with"),
    ],
)
def test_trouble_is_one_line(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, *PAIR, *arguments)
    assert (status, out) == (1, "")
    line = err.splitlines()[-1]
    assert line.startswith("loom: ")
    assert said in line.lower()
