"""`python -m studio analogy` as a person runs it: pictures in, b' out, and one line for whatever is wrong."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studio.cli import main as cli
from studio.composing.compose import compose
from studio.evaluation.image_quality import psnr
from studio.formats import open_adapter
from studio.recipes.recipe import read_yaml
from studio.vision.lorweb_file import read_lorweb
from studio.vision.pictures import MAX_PIXELS, read_picture, to_picture
from studio.vision.pipeline import EMBEDDED
from studio.vision.space import ready
from tests.kontext import clip_folder, kontext_pipeline, lorweb_folder

SIZE = read_lorweb(EMBEDDED / "lorweb").size


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a, a', b and the right answer of one ready analogy."""
    made = tmp_path_factory.mktemp("pictures")
    found = ready(("tint",))
    for name in ("a", "a2", "b", "truth"):
        to_picture(getattr(found, name)).save(made / f"{name}.png")
    return made


def run(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: object, **pictures: Path) -> tuple[int, str, str]:
    """Status, stdout and stderr of one call; pictures not given are those of the folder."""
    paths = {name: folder / f"{name}.png" for name in ("a", "a2", "b")} | pictures
    given = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    try:
        status = cli.main(["analogy", *given, *map(str, arguments)])
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


def values(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(read_picture(path))).permute(2, 0, 1)[None] / 255


def test_b2_is_drawn_and_its_coefficients_draw_it_again(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    out, again, coeffs = tmp_path / "b2.png", tmp_path / "again.png", tmp_path / "coeffs.json"
    status, said, trouble = run(capsys, folder, "-o", out, "--coeffs", coeffs)
    assert (status, trouble) == (0, "")
    assert said.startswith(f"{out}: 64 x 64, about ")
    assert psnr(values(out), values(folder / "truth.png")) > 25
    saved = json.loads(coeffs.read_text())
    rows = np.array(list(saved["layers"].values()))
    assert rows.shape == (49, SIZE)
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)
    assert saved["effective_adapters"] == pytest.approx((1 / (rows**2).sum(1)).mean(), rel=1e-5)
    assert run(capsys, folder, "-o", again, "--mix", coeffs)[0] == 0
    assert again.read_bytes() == out.read_bytes()
    assert run(capsys, folder, "-o", again, "--seed", 1)[0] == 0
    assert again.read_bytes() != out.read_bytes()


def test_the_analogy_is_kept_as_a_lora_with_its_recipe(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    lora = tmp_path / "kept.zip"
    arguments = (
        "-o",
        tmp_path / "b2.png",
        "--gain",
        "3=0",
        "--strength",
        "0.5",
        "--lora",
        lora,
        "--format",
        "diffusers",
    )
    status, said, _ = run(capsys, folder, *arguments, "--json")
    assert status == 0
    assert "kept energy 100.00%" in json.loads(said)["lora"]
    kept = open_adapter(lora)
    with zipfile.ZipFile(lora) as archive:
        recipe = read_yaml(archive.read("recipe.yaml").decode())
    assert len(recipe.sources) == SIZE
    assert not any(recipe.sources[2].modules.values())  # muted
    composed = compose(recipe).adapter  # from the recipe alone
    for name in list(kept.modules)[::12]:
        np.testing.assert_allclose(composed.delta(name), kept.delta(name), atol=1e-6)


def test_pictures_of_any_size_and_kind(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    odd = {"a": ("1.gif", "P", (1, 1)), "a2": ("2.jpg", "CMYK", (300, 20)), "b": ("3.png", "RGBA", (5, 700))}
    pictures = {}
    for name, (file, mode, size) in odd.items():
        Image.new(mode, size).save(tmp_path / file)
        pictures[name] = tmp_path / file
    assert run(capsys, folder, "-o", tmp_path / "b2.webp", "--steps", 1, **pictures)[0] == 0
    assert read_picture(tmp_path / "b2.webp").size == (64, 64)
    assert read_picture(pictures["b"]).getpixel((2, 2)) == (255, 255, 255)  # transparent is white


def hostile(tmp_path: Path) -> dict[str, Path]:
    whole = tmp_path / "whole.png"
    Image.new("RGB", (500, 500), "red").save(whole)
    content = whole.read_bytes()
    made = {
        "empty.png": b"",
        "text.png": b"not a picture at all",
        "cut.png": content[: len(content) // 2],
        "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "ps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    }
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    Image.new("1", (MAX_PIXELS // 1000, 1001)).save(tmp_path / "bomb.png")
    return {name: tmp_path / name for name in (*made, "bomb.png", "nowhere.png")} | {"a folder": tmp_path}


def test_hostile_pictures_are_one_line(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    for name, path in hostile(tmp_path).items():
        status, said, trouble = run(capsys, folder, "-o", tmp_path / "b2.png", b=path)
        assert (status, said) == (1, ""), name
        assert trouble.startswith("loom: "), name
        assert trouble.count("\n") == 1, name
        assert "defect" not in trouble.lower(), name
    assert not (tmp_path / "b2.png").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-o", "b2.txt"), "end it in"),
        (("-o", "b2.png", "--temperature", "0"), "not positive"),
        (("-o", "b2.png", "--temperature", "nan"), "not positive"),
        (("-o", "b2.png", "--steps", "0"), "steps cannot be taken"),
        (("-o", "b2.png", "--seed", "-1"), "seed -1 is out of range"),
        (("-o", "b2.png", "--strength", "inf"), "strength inf is out of range"),
        (("-o", "b2.png", "--gain", "three=0"), "is not a gain"),
        (("-o", "b2.png", "--gain", f"{SIZE + 1}=0"), f"adapters are 1 to {SIZE}"),
        (("-o", "b2.png", "--mix", "nowhere.json"), "no coefficients at"),
        (("-o", "b2.png", "--basis", "nowhere"), "no lorweb file"),
        (("-o", "b2.png", "--prompt", "blue"), "means nothing to the embedded model"),
        (("-o", "b2.png", "--base", "nowhere at all"), "needs a basis"),
        (("-o", "b2.png", "--lora", "x", "--rank", "-1"), "rank cannot be -1"),
        (("-o", "b2.png", "--lora", "x", "--rank", str(10**23)), "between 1 and 512"),
    ],
)
def test_wrong_wishes_are_one_line(
    capsys: pytest.CaptureFixture[str], folder: Path, arguments: tuple[str, ...], says: str
) -> None:
    status, said, trouble = run(capsys, folder, *arguments)
    assert (status, said) == (1, "")
    assert trouble.startswith("loom: ")
    assert trouble.count("\n") == 1
    assert says in trouble.lower()


def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["analogy", "--a", "a.png"])
    assert stop.value.code == 2
    assert "--a2, --b, -o/--out" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 1}', '{"format": 1, "layers": {"x": [1]}}', "row", "nan"])
def test_broken_coefficients_are_refused(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "coeffs.json"
    if damage in {"row", "nan"}:
        layers = {name: [1.0] * SIZE for name in read_lorweb(EMBEDDED / "lorweb").layers}
        layers[next(iter(layers))] = [1.0] * (SIZE - 1) if damage == "row" else [float("nan")] * SIZE
        damage = json.dumps({"format": 1, "layers": layers})
    path.write_text(damage)
    status, _, trouble = run(capsys, folder, "-o", tmp_path / "b2.png", "--mix", path)
    assert status == 1
    assert trouble.count("\n") == 1
    assert "defect" not in trouble.lower()


def test_a_kontext_base_asks_for_its_terms_first(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    pipeline = kontext_pipeline()
    pipeline.save_pretrained(tmp_path / "base")
    basis = lorweb_folder(tmp_path / "lorweb", pipeline.transformer, clip_folder(tmp_path / "clip")).parent
    out, coeffs = tmp_path / "b2.png", tmp_path / "coeffs.json"
    wish = (
        "-o",
        out,
        "--base",
        tmp_path / "base",
        "--basis",
        basis,
        "--size",
        64,
        "--steps",
        1,
        "--prompt",
        "make it blue",
    )
    status, _, trouble = run(capsys, folder, *wish)
    assert (status, trouble.count("\n")) == (1, 1)
    assert "terms of their own" in trouble
    assert "--accept-licence" in trouble
    assert not out.exists()
    (basis / "README.md").write_text("---\nlicense: other\nlicense_name: NVIDIA License\n---\n")
    assert "lorweb: NVIDIA License" in run(capsys, folder, *wish)[2]
    status, said, _ = run(capsys, folder, *wish, "--accept-licence", "--device", "cpu", "--coeffs", coeffs)
    assert (status, read_picture(out).size) == (0, (64, 64))
    assert "of 4 adapters" in said
    assert json.loads(coeffs.read_text())["prompt"] == "make it blue"
