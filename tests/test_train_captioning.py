"""`caption`: what is described, what is left alone; a tiny BLIP in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from test_train_folders import draw

from lora_ext import cli
from lora_ext.errors import FileError, TrainError
from lora_ext.train.data.captioning import caption_folder


def colour(images: Sequence[Image.Image]) -> list[str]:
    """Describes pictures by their first pixel."""
    return [f"a  {image.getpixel((0, 0))}\npicture " for image in images]


def test_captions_that_are_there_stay(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", colour="red")
    draw(tmp_path / "b.jpg", caption="mine")
    draw(tmp_path / "c.png")
    (tmp_path / "c.caption").write_text("", encoding="utf-8")
    (tmp_path / "bad.png").write_bytes(b"x")
    done = caption_folder(tmp_path, colour, prefix="sks,", batch_size=3)
    assert [Path(path).name for path, _ in done.written] == ["a.png"] and len(done.had) == 2
    assert "bad.png" in done.skipped[0] and "1 captions written; 2 pictures have one" in done.text()
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "sks, a (255, 0, 0) picture\n"
    assert (tmp_path / "b.txt").read_text(encoding="utf-8") == "mine" and not (tmp_path / "c.txt").exists()
    done = caption_folder(tmp_path, colour, overwrite=True)
    assert len(done.written) == 3 and "picture" in (tmp_path / "b.txt").read_text(encoding="utf-8")


def test_it_can_be_stopped_and_what_is_written_stays(tmp_path: Path) -> None:
    for number in range(4):
        draw(tmp_path / f"{number}.png")
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 2

    assert len(caption_folder(tmp_path, colour, cancelled=cancelled).written) == 2
    assert len(list(tmp_path.glob("*.txt"))) == 2


def test_a_captioner_that_fails_is_named_with_its_picture_and_what_is_written_stays(tmp_path: Path) -> None:
    for number in range(3):
        draw(tmp_path / f"{number}.png")
    calls: list[int] = []

    def failing(images: Sequence[Image.Image]) -> list[str]:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("CUDA error")
        return colour(images)

    message = r"^1\.png could not be described: RuntimeError: CUDA error; the 1 captions written before stay$"
    with pytest.raises(TrainError, match=message) as raised:
        caption_folder(tmp_path, failing)
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert [path.name for path in tmp_path.glob("*.txt")] == ["0.txt"]

    def refusing(images: Sequence[Image.Image]) -> list[str]:
        raise FileError("the model is missing")

    with pytest.raises(TrainError, match=r"^1\.png could not be described: the model is missing$"):
        caption_folder(tmp_path, refusing)


def test_mistakes_are_reported(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="has no pictures; --recursive"):
        caption_folder(tmp_path, colour)
    draw(tmp_path / "in" / "a.png")
    assert caption_folder(tmp_path, colour, recursive=True).written
    with pytest.raises(TrainError, match=r"cannot end in '\.png'"):
        caption_folder(tmp_path / "in", colour, extension="png")


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP of random weights with ten words."""
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    folder = tmp_path_factory.mktemp("blip")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] [DEC] a red dog on grass sits here now".split()
    (folder / "words.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = BertTokenizer(str(folder / "words.txt"))
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BlipConfig(
        text_config={**size, "vocab_size": len(words), "encoder_hidden_size": 16, "bos_token_id": 5, "sep_token_id": 3,
                     "pad_token_id": 0, "eos_token_id": 3},
        vision_config={**size, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_the_verb(tmp_path: Path, blip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png", colour="blue")
    argv = ["caption", str(tmp_path), "--model", str(blip), "--max-length", "9", "--batch_size", "2", "--device", "cpu"]
    assert cli.main([*argv, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [Path(path).name for path, _ in said["written"]] == ["a.png", "b.png"]
    known = set("[DEC] a red dog on grass sits here now".split())  # random weights say anything
    for path, caption in said["written"]:
        assert caption and set(caption.split()) <= known
        assert Path(path).with_suffix(".txt").read_text(encoding="utf-8").strip() == caption
    assert cli.main(argv) == 0 and "0 captions written; 2 pictures have one" in capsys.readouterr().out


@pytest.mark.parametrize(("more", "says"), [(["--model", "DIR"], "no config.json"), (["NONE"], "does not exist")])
def test_a_missing_model_or_folder_is_one_line(
    tmp_path: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "a.png")
    argv = [str(tmp_path / "nothing")] if more == ["NONE"] else [str(tmp_path), "--model", str(tmp_path)]
    assert cli.main(["caption", *argv]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
