"""Masks of regions: files that come from outside, names, and what is written beside a picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from test_generate import folder, model, pixels, settings

from lora_ext.errors import FileError, PromptError
from lora_ext.generate import GenerationReport, generate, save_images
from lora_ext.host.standalone.loader import StandaloneModel
from lora_ext.region_masks import (
    MOST_MASK_SIDE,
    MaskFolders,
    check_mask_name,
    load_mask_image,
    mask_hash,
    restore_masks,
    write_masks,
)
from lora_ext.regions import parse_region

__all__ = ["folder", "model"]


def _paint(path: Path, *, mode: str = "L", size: tuple[int, int] = (8, 8)) -> Path:
    """A mask whose left half acts."""
    path.parent.mkdir(exist_ok=True)
    image = Image.new(mode, size, (0, 0, 0, 0) if mode == "RGBA" else 0)
    image.paste((255, 255, 255, 255) if mode == "RGBA" else 255, (0, 0, size[0] // 2, size[1]))
    image.save(path)
    return path


def test_white_acts_and_what_is_transparent_does_not(tmp_path: Path) -> None:
    grey, clear = _paint(tmp_path / "grey.png"), _paint(tmp_path / "clear.png", mode="RGBA")
    assert load_mask_image(grey).tobytes() == load_mask_image(clear).tobytes()
    assert mask_hash(load_mask_image(grey)) == mask_hash(load_mask_image(clear))
    Image.new("L", (4, 4)).save(tmp_path / "black.png")
    with pytest.raises(PromptError, match="'black' is black: the file would act nowhere"):
        MaskFolders((tmp_path,)).load(parse_region("black"))
    half = Image.new("RGBA", (2, 1), (255, 255, 255, 128))
    half.save(tmp_path / "half.png")
    assert list(load_mask_image(tmp_path / "half.png").tobytes()) == [128, 128]


def test_large_and_broken_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = _paint(tmp_path / "large.png", size=(MOST_MASK_SIDE * 2, 10))
    assert load_mask_image(large).size == (MOST_MASK_SIDE, 5)
    broken = tmp_path / "broken.png"
    broken.write_bytes(large.read_bytes()[:50])
    with pytest.raises(FileError, match=r"broken\.png cannot be read"):
        load_mask_image(broken)
    monkeypatch.setattr("lora_ext.region_masks.MOST_MASK_BYTES", 10)
    with pytest.raises(FileError, match="a mask has at most"):
        load_mask_image(large)


def test_names(tmp_path: Path) -> None:
    _paint(tmp_path / "one" / "face.png")
    _paint(tmp_path / "two" / "face.png", size=(4, 4))
    masks = MaskFolders([tmp_path / "one", tmp_path / "two", tmp_path / "missing"])
    region = masks.load(parse_region("face"))
    assert region.pixels is not None and region.pixels.shape == (8, 8) and list(masks.hashes()) == ["face"]
    with pytest.raises(PromptError, match=r"no mask 'fase'.*did you mean 'face'"):
        masks.load(parse_region("fase"))
    with pytest.raises(PromptError, match="did you mean 'left'"):
        masks.load(parse_region("lefft"))
    assert check_mask_name("my face 2") == "my face 2"
    for name in ("left", "col 1/2", "a/b", "0-1;0-1", ""):
        with pytest.raises(PromptError):
            check_mask_name(name)


def test_a_picture_of_a_mask_can_be_made_again(folder: Path, model: StandaloneModel, tmp_path: Path) -> None:
    _paint(tmp_path / "mine" / "half.png")
    painted = settings(folder, prompt="a b<lora:strong:1:at=half>", masks=(tmp_path / "mine",))
    images = generate(painted, model=model, report=GenerationReport())
    same = generate(settings(folder, prompt="a b<lora:strong:1:at=left>"), model=model)
    assert (pixels(images[0]) == pixels(same[0])).all()
    out = tmp_path / "out"
    save_images(images, out)
    (kept,) = (out / "masks").iterdir()
    assert f'Region masks: "half: {kept.stem}"' in Image.open(next(out.glob("*.png"))).info["parameters"]
    again = settings(folder, prompt=f"a b<lora:strong:1:at={kept.stem}>", masks=(out / "masks",))
    assert (pixels(generate(again, model=model)[0]) == pixels(images[0])).all()


def test_a_pasted_prompt_names_the_masks_of_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the user's mask has changed or is lost, the one beside the picture is taken, under its hash."""
    mine = tmp_path / "mine"
    made_with = load_mask_image(_paint(mine / "my face.png"))
    digest = mask_hash(made_with)
    prompt = "at=my face <lora:a:1:at=my face:feather=0.1> <lora:b:1: at = my face><lora:c:1:at=my face 2>"
    masks, beside = MaskFolders([mine]), tmp_path / "pictures" / "masks"
    assert restore_masks(prompt, {"my face": digest}, masks, []) == (prompt, [])
    _paint(mine / "my face.png", size=(4, 4))
    same, problems = restore_masks(prompt, {"my face": digest}, masks, [beside])
    assert same == prompt and len(problems) == 1 and digest in problems[0]
    write_masks({digest: made_with, "0" * 12: load_mask_image(mine / "my face.png")}, beside.parent)
    for _ in range(2):  # the second time the copy is there
        restored, problems = restore_masks(prompt, {"my face": digest}, masks, [tmp_path / "none", beside])
        tags = f"<lora:a:1:at={digest}:feather=0.1> <lora:b:1:at={digest}><lora:c:1:at=my face 2>"
        assert (restored, problems) == (f"at=my face {tags}", [])
    assert mask_hash(load_mask_image(mine / f"{digest}.png")) == digest
    assert restore_masks(prompt, {"my face": "0" * 12}, masks, [beside])[1]
    looked_for: list[object] = []
    monkeypatch.setattr("lora_ext.region_masks._has_hash", lambda path, digest: looked_for.append(path))
    for wrong in ("wrong", "../../secret", "/etc/passwd", "..\\x"):
        assert "is no hash of a mask" in restore_masks(prompt, {"my face": wrong}, masks, [beside])[1][0]
    assert not looked_for
