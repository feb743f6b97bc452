"""`caption`: what is described, what is left alone; a tiny BLIP in a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_train_folders import draw

from lora_ext import cli
from lora_ext.errors import FileError, TrainError
from lora_ext.host.standalone.captioner_folders import find_captioners, open_captioner
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
    assert "bad.png" in done.skipped[0] and "1 caption written; 2 pictures have one" in done.text()
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

    message = r"^1\.png could not be described: RuntimeError: CUDA error; the 1 caption written before stays$"
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


@pytest.mark.parametrize(("more", "says"), [("", "no config.json"), ("none", "none does not exist")])
def test_a_missing_model_or_folder_is_one_line(
    tmp_path: Path, more: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "a.png")
    assert cli.main(["caption", str(tmp_path), "--model", str(tmp_path / more)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert cli.main(["caption", str(tmp_path / "nothing")]) == 2
    error = capsys.readouterr().err
    assert "does not exist" in error and error.count("\n") == 1


# --- a tagger in ONNX


def _field(number: int, value: int | bytes) -> bytes:
    """One field of a protobuf message: a number, or bytes with their length."""

    def varint(n: int) -> bytes:
        return bytes([n & 127 | (128 if n > 127 else 0)]) + (varint(n >> 7) if n > 127 else b"")

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def _node(kind: bytes, inputs: Sequence[bytes], output: bytes, **lists: Sequence[int]) -> bytes:
    attributes = [
        _field(5, _field(1, name.encode()) + b"".join(_field(8, n) for n in numbers) + _field(20, 7))
        for name, numbers in lists.items()
    ]
    return b"".join([*(_field(1, name) for name in inputs), _field(2, output), _field(4, kind), *attributes])


def _tensor_type(name: bytes, shape: Sequence[int | bytes]) -> bytes:
    """A float tensor's name and shape; a name in the shape is a free size."""
    sides = b"".join(_field(1, _field(1, n) if isinstance(n, int) else _field(2, n)) for n in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, sides)))


@pytest.fixture
def tagger(tmp_path: Path) -> Path:
    """A tagger of 8 × 8 pixels: the mean of blue, green and red, less a half, times a matrix; then a sigmoid."""
    pytest.importorskip("onnxruntime")
    weights = np.zeros((3, 5), np.float32)
    weights[0, 4], weights[2, 1], weights[2, 2], weights[1, 3] = 0.1, 0.1, 0.05, 0.1
    bias = np.array([5, -9, -4, -9, -9], np.float32)  # the first is a rating, and always certain
    constants = [
        _field(1, side) + _field(2, 1) + _field(8, name) + _field(9, values.tobytes())
        for name, values, side in ((b"b", bias, 5),)
    ] + [_field(1, 3) + _field(1, 5) + _field(2, 1) + _field(8, b"w") + _field(9, weights.tobytes())]
    nodes = [
        _node(b"ReduceMean", [b"x"], b"m", axes=(1, 2)),
        _node(b"Flatten", [b"m"], b"f"),
        _node(b"MatMul", [b"f", b"w"], b"p"),
        _node(b"Add", [b"p", b"b"], b"s"),
        _node(b"Sigmoid", [b"s"], b"y"),
    ]
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, b"tiny")
    graph += b"".join(_field(5, constant) for constant in constants)
    graph += _field(11, _tensor_type(b"x", (b"n", 8, 8, 3))) + _field(12, _tensor_type(b"y", (b"n", 5)))
    folder = tmp_path / "captioners" / "tiny-tagger"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(2, 13)))
    table = "tag_id,name,category,count\n1,general,9,1\n2,red_mug,0,1\n3,^_^,0,1\n4,green,0,1\n5,blue_fox,4,1\n"
    (folder / "selected_tags.csv").write_text(table, encoding="utf-8")
    return folder


def test_a_tagger_in_onnx_writes_tags(tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Characters first, then likely ones; ratings are left out; a picture is put on a white square."""
    for name, colour in (("red", "red"), ("blue", "blue"), ("black", "black"), ("pink", (255, 0, 255))):
        draw(tmp_path / "pictures" / f"{name}.png", colour=colour)  # type: ignore[arg-type]
    Image.new("RGB", (8, 2), "black").save(tmp_path / "pictures" / "wide.png")
    assert cli.main(["caption", str(tmp_path / "pictures"), "--model", str(tagger)]) == 0
    said = {path.stem: path.read_text(encoding="utf-8").strip() for path in (tmp_path / "pictures").glob("*.txt")}
    assert said == {
        "red": "red mug, ^_^", "blue": "blue fox", "pink": "blue fox, red mug, ^_^",
        "wide": "blue fox, green, red mug, ^_^", "black": "",
    }  # fmt: skip
    argv = ["caption", str(tmp_path / "pictures"), "--model", str(tagger), "--overwrite", "--threshold", "0.9999"]
    assert cli.main(argv) == 0 and (tmp_path / "pictures" / "red.txt").read_text(encoding="utf-8").strip() == "red mug"
    found = find_captioners([tmp_path / "captioners", tmp_path / "none"])
    assert list(found) == ["tiny-tagger"] and found["tiny-tagger"]([Image.new("RGB", (4, 4), "red")]) == [
        "red mug, ^_^"
    ]


def test_a_tagger_that_cannot_be_used_says_why(tagger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = [Image.new("RGB", (8, 8))]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(FileError, match="pip install onnxruntime"):
        open_captioner(tagger)(image)
    monkeypatch.undo()
    table = (tagger / "selected_tags.csv").read_text(encoding="utf-8")
    (tagger / "selected_tags.csv").write_text(table.rsplit("\n", 2)[0], encoding="utf-8")
    with pytest.raises(FileError, match="has 4 tags, and the network gives 5"):
        open_captioner(tagger)(image)
    for damage, says in ((b"", "no table of tags"), (b"\xff\xfe", "cannot be read as a table")):
        (tagger / "selected_tags.csv").write_bytes(damage)
        with pytest.raises(FileError, match=says):
            open_captioner(tagger)
    (tagger / "selected_tags.csv").write_text(table, encoding="utf-8")
    (tagger / "model.onnx").write_bytes(b"no model")
    with pytest.raises(FileError, match="cannot be read as an ONNX model"):
        open_captioner(tagger)
    (tagger / "model.onnx").unlink()
    with pytest.raises(FileError, match=r"has no model\.onnx"):
        open_captioner(tagger)
