"""`images`: sizes, names and what goes along."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_train_folders import draw

from lora_ext import cli
from lora_ext.errors import TrainError
from lora_ext.train.data.resize_images import parse_max_resolution, reduced_sizes, resize_folder

SIDES = st.integers(1, 5000)


@given(st.tuples(SIDES, SIDES), st.tuples(st.integers(8, 2000), st.integers(8, 2000)), st.sampled_from([1, 2, 8, 64]))
def test_sizes(size: tuple[int, int], most: tuple[int, int], step: int) -> None:
    try:
        scaled, cut = reduced_sizes(size, most, step)
    except TrainError:
        assert step > 1
        return
    assert cut[0] % step == cut[1] % step == 0
    assert all(0 <= s - c < step for s, c in zip(scaled, cut, strict=True))
    if size[0] * size[1] <= most[0] * most[1]:
        assert scaled == size
    elif min(scaled) > 1:
        assert scaled[0] * scaled[1] <= most[0] * most[1]
        assert (scaled[0] + 1) * (scaled[1] + 1) >= most[0] * most[1]
    if min(scaled) > 50:
        assert abs(scaled[0] / scaled[1] / (size[0] / size[1]) - 1) < 0.05


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    draw(source / "big.png", (800, 400), caption="big one")
    draw(source / "small.jpg", (50, 61))
    (source / "big.npz").write_bytes(b"x")
    (source / "bigger.txt").write_text("no", encoding="utf-8")
    (source / "small.jpg.txt").write_text("small one", encoding="utf-8")
    (source / "bad.png").write_bytes(b"x")
    argv = ["images", str(source), str(target), "--max_resolution", "200x200, 100x100", "--divisible-by", "8"]
    assert cli.main([*argv, "--copy_associated_files", "--interpolation", "lanczos4"]) == 0
    said = capsys.readouterr().out
    assert "2 pictures read, 4 written, 6 other files copied" in said and "bad.png cannot be read" in said
    sizes = {path.name: Image.open(path).size for path in target.glob("*.jpg")}
    assert sizes == {
        "big+200x200.jpg": (280, 136),
        "big+100x100.jpg": (136, 64),
        "small+200x200.jpg": (48, 56),
        "small+100x100.jpg": (48, 56),
    }
    assert (target / "big+100x100.txt").read_text(encoding="utf-8") == "big one"
    others = {path.name for path in target.iterdir()} - set(sizes)
    kept = {f"small+{n}x{n}.jpg.txt" for n in (200, 100)}
    assert others == kept | {f"big+{n}x{n}.{suffix}" for n in (200, 100) for suffix in ("txt", "npz")}
    (target / "big+200x200.jpg").write_bytes(b"kept")
    assert cli.main(argv) == 0
    assert re.search("4 existed already.*\n2 of the pictures have captions; --copy_a", capsys.readouterr().out)
    assert (target / "big+200x200.jpg").read_bytes() == b"kept"
    assert cli.main([*argv, "--overwrite"]) == 0 and Image.open(target / "big+200x200.jpg").size == (280, 136)


def test_png_keeps_transparency_and_folders_their_places(tmp_path: Path) -> None:
    path = tmp_path / "in" / "10_a" / "x.png"
    path.parent.mkdir(parents=True)
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(path)
    with pytest.raises(TrainError, match="--recursive"):
        resize_folder(tmp_path / "in", tmp_path / "out")
    resize_folder(tmp_path / "in", tmp_path / "out", max_resolution="32x32", save_as_png=True, recursive=True)
    made = Image.open(tmp_path / "out" / "10_a" / "x+32x32.png")
    assert made.mode == "RGBA" and made.size == (32, 32) and made.getpixel((3, 3))[3] == 0  # type: ignore[index]


def test_the_same_name_twice_is_reported(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.png")
    draw(tmp_path / "in" / "a.jpg")
    done = resize_folder(tmp_path / "in", tmp_path / "out", max_resolution="32x32")
    assert done.images_read == 1 and "same name" in done.skipped[0]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["IN", "OUT", "--max_resolution", "512"], "not a size such as 512x512"),
        (["IN", "IN"], "another folder"),
        (["NONE", "OUT"], "does not exist"),
        (["IN", "OUT", "--divisible_by", "0"], "1 or more"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path / "IN" / "a.png")
    assert cli.main(["images", *(str(tmp_path / arg) if arg.isupper() else arg for arg in argv)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_lists_of_sizes() -> None:
    assert parse_max_resolution("512x512,384X384".replace("X", "x") + ", 512x512") == [(512, 512), (384, 384)]
