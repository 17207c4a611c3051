"""The README's table of speed is what the files of results say, and the picture of costs is drawn from its own."""

from __future__ import annotations

import json

import pytest

from bench import curves, gpu, lego, table


def test_the_readme_holds_the_table_of_the_results() -> None:
    text = table.README.read_text(encoding="utf-8")
    assert table.page(text) == text, "run: python -m bench.table --readme"


def test_every_row_has_a_file_of_results() -> None:
    assert [name for name in table.TABLES if not (table.RESULTS / f"{name}.json").is_file()] == []


def test_the_picture_is_drawn_from_its_figures() -> None:
    found = json.loads(curves.RESULTS.read_text(encoding="utf-8"))
    assert curves.PICTURE.read_text(encoding="utf-8") == curves.svg(found)


def test_the_page_on_merging_holds_legos_figures() -> None:
    text = lego.PAGE.read_text(encoding="utf-8")
    assert lego.page(text) == text, "run: python -m bench.lego --page"


def test_the_page_on_merging_holds_the_gpus_figures() -> None:
    text = gpu.PAGE.read_text(encoding="utf-8")
    assert gpu.page(text) == text, "run: python -m bench.gpu --page"


def test_the_page_on_learning_holds_the_gpus_figures() -> None:
    found = json.loads((gpu.RESULTS.parent / "soups_gpu.json").read_text(encoding="utf-8"))
    said = (gpu.PAGE.parent / "learning.md").read_text(encoding="utf-8")
    for name in ("cat", "peft_lora"):
        assert f"| {found[name]['a_second']:.1f} steps/s | {found[name]['beyond_gb']:.1f} GB |" in said
    once, turn = (found[f"preview_8_{how}"]["seconds"] for how in ("at_once", "in_turn"))
    assert f"| {once:.2f} s |" in said
    assert f"| {turn:.1f} s |" in said
    assert f"{turn / once:.1f} times as fast" in said
    assert f"{found['parameters'] / 1e9:.2f} B parameters" in said


def test_the_benchmark_for_a_gpu_runs_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["gpu", "--device", "cpu", "--shape", "embedded", "--methods", "cat", "svd"]
    monkeypatch.setattr("sys.argv", arguments)
    gpu.main()
    rows = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert rows.keys() == {"cat", "svd"}
    assert all(json.loads(row)["difference"] == 0 for row in rows.values())
    monkeypatch.setattr("sys.argv", arguments[:1])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as left:
        gpu.main()
    assert left.value.code == 1
